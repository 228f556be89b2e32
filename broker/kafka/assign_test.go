package kafka

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestAssign(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 7))
	for range 3000 {
		partitions, n := random.IntN(20), 1+random.IntN(8)
		members := make([]claimant, n)
		owners := map[int]string{} // what may stay: claimed once
		for i := range members {
			members[i].member = fmt.Sprint("m", i)
			for p := range partitions + 2 { // some are not there any more, some are claimed by several
				if random.IntN(n+1) == 0 {
					members[i].owned = append(members[i].owned, p)
					if owners[p] == "" {
						owners[p] = members[i].member
					}
				}
			}
		}
		out := assign(partitions, members)
		if len(out) != n {
			t.Fatalf("%d of %d members are told what they get", len(out), n)
		}
		seen := make([]int, partitions)
		for _, m := range members {
			got := out[m.member]
			if len(got) < partitions/n || len(got) > (partitions+n-1)/n {
				t.Fatalf("%d of %d partitions for one of %d", len(got), partitions, n)
			}
			for _, p := range got {
				seen[p]++
			}
		}
		for p, times := range seen {
			if times != 1 {
				t.Fatalf("partition %d was given %d times: %v", p, times, out)
			}
		}
	}
}

// What was divided evenly stays; who comes later takes the surplus alone.
func TestAssignIsSticky(t *testing.T) {
	t.Parallel()
	first := assign(7, []claimant{{member: "a"}, {member: "b"}})
	claims := []claimant{{"b", first["b"]}, {"a", first["a"]}}
	if again := assign(7, claims); !slices.Equal(again["a"], first["a"]) || !slices.Equal(again["b"], first["b"]) {
		t.Errorf("%v became %v", first, again)
	}
	third := assign(7, append(claims, claimant{member: "0"}))
	for _, m := range []string{"a", "b"} {
		for _, p := range third[m] {
			if !slices.Contains(first[m], p) {
				t.Errorf("%s has %d, which it had not before: %v, then %v", m, p, first, third)
			}
		}
	}
	one := assign(1, []claimant{{member: "0"}, {member: "z", owned: []int{0}}})
	if len(one["z"]) != 1 || len(one["0"]) != 0 {
		t.Errorf("the one partition moved: %v", one)
	}
}
