package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// residentBytes is the memory of a process that is not shared with files; 0: not known.
func residentBytes(pid int) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(raw), "RssAnon:")
	fields := strings.Fields(after)
	if len(fields) < 2 {
		return 0
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// ticks a second in which the kernel counts CPU time for programs, on every processor Linux runs on.
const ticks = 100

// processCPU is what a process has used so far, in user and kernel mode; 0: not known.
func processCPU(pid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything; user and kernel time are the 12th and 13th field after it.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	kernel, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+kernel) * time.Second / ticks
}
