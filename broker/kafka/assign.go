package kafka

import (
	"cmp"
	"slices"
)

// claimant is a member of a group as its leader sees it: what it read until now, if anything.
type claimant struct {
	member string
	owned  []int
}

// assign divides a topic's partitions among the members of a group, as evenly as can be, and leaves each what it had as far as that
// goes: a reader keeps the keys it knows, and of a topic with one partition those who come later stand by.
func assign(partitions int, members []claimant) map[string][]int {
	out := make(map[string][]int, len(members))
	if len(members) == 0 {
		return out
	}
	// Those who have most come first: they may keep one more where it does not come out even.
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b claimant) int {
		return cmp.Or(cmp.Compare(len(b.owned), len(a.owned)), cmp.Compare(a.member, b.member))
	})
	least, more := partitions/len(members), partitions%len(members)
	taken := make([]bool, partitions)
	room := make([]int, len(members))
	for i, m := range members {
		out[m.member] = nil // who gets nothing is told so
		room[i] = least
		if i < more {
			room[i]++
		}
		for _, p := range m.owned {
			if room[i] > 0 && p >= 0 && p < partitions && !taken[p] {
				taken[p] = true
				out[m.member] = append(out[m.member], p)
				room[i]--
			}
		}
	}
	next := 0
	for i, m := range members {
		for ; room[i] > 0; room[i]-- {
			for taken[next] {
				next++
			}
			taken[next] = true
			out[m.member] = append(out[m.member], next)
		}
		slices.Sort(out[m.member])
	}
	return out
}
