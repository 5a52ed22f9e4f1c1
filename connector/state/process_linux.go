package state

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// thisProcess names this process so that another one of the same kernel can tell whether it is gone: boot, process namespace, pid, and the time at which
// it was started (proc(5)). Empty where that can't be read.
func thisProcess() string { return processName(os.Getpid()) }

func processName(pid int) string {
	where := processHome()
	started, _ := processStart(pid)
	if where == "" || started == "" {
		return ""
	}
	return fmt.Sprintf("%s %d %s", where, pid, started)
}

// processEnded reports whether the process that named itself so is surely gone: false where this process can't know.
func processEnded(name string) bool {
	parts := strings.Fields(name)
	if len(parts) != 4 || parts[0]+" "+parts[1] != processHome() {
		return false
	}
	pid, err := strconv.Atoi(parts[2])
	if err != nil {
		return false
	}
	started, state := processStart(pid)
	return started != parts[3] || state == "Z" || state == "X"
}

func processHome() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(boot)) + " " + space
}

// processStart gives when a process was started, in ticks since the boot, and its state; empty where there is none.
func processStart(pid int) (started, state string) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", ""
	}
	// The second field is the program's name in parentheses, which may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return "", ""
	}
	return fields[19], fields[0]
}
