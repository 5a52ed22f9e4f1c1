//go:build pprof

package main

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
)

// With the build tag pprof (go build -tags pprof ./cmd/tuzhan-cdc) the program writes cpu.pprof and allocs.pprof into the directory
// TUZHAN_CDC_PROFILE when it ends. A released program has no profiler.
func init() {
	dir := os.Getenv("TUZHAN_CDC_PROFILE")
	if dir == "" {
		return
	}
	runtime.MemProfileRate = 16 << 10
	cpu, err := os.Create(filepath.Join(dir, "cpu.pprof"))
	if err != nil {
		panic(err)
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		panic(err)
	}
	beforeExit = func() {
		pprof.StopCPUProfile()
		allocs, err := os.Create(filepath.Join(dir, "allocs.pprof"))
		if err != nil {
			panic(err)
		}
		if err := pprof.Lookup("allocs").WriteTo(allocs, 0); err != nil {
			panic(err)
		}
		_ = allocs.Close()
	}
}
