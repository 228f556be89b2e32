//go:build !linux

package main

import "time"

// residentBytes is not measured here; the figure is 0.
func residentBytes(int) int64 { return 0 }

// processCPU is not measured here; the figure is 0.
func processCPU(int) time.Duration { return 0 }
