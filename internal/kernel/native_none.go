//go:build (!amd64 && !arm64) || purego

package kernel

// nativeSets returns the sets written in assembly: none on this machine.
func nativeSets() []*set { return nil }
