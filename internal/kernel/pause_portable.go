package kernel

import "runtime"

// pause gives way for a moment while waiting.
func pause() { runtime.Gosched() }
