// Package modalitytest is the conformance suite of adapters: whatever turns media into byte
// arrays, built in or someone's own, passes it.
//
//	func TestAdapter(t *testing.T) {
//		a, err := thermal.Open(nil)
//		…
//		modalitytest.Run(t, a, modalitytest.File(t, "testdata/cat.raw"))
//	}
//
//	func FuzzAdapter(f *testing.F) { modalitytest.Fuzz(f, a, sample) }
//
// The suite checks, for every sample: the array has the shape the plan said; rows are finite
// numbers, the same on every reading, in every block size, from many goroutines and from a
// forward-only stream; a cancelled context and small limits are heeded; and damaged samples
// give errors with codes, never a panic, a hang or a heap of memory.
package modalitytest
