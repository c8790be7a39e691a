// Package golden walks reference cases in tests: those below testdata/reference and, when
// MMSERVE_REFERENCE names a directory, those below it as well.
//
//	golden.Each(t, "resampler", func(t *testing.T, c *refcase.Case) {
//		…
//		golden.Compare(t, c, stages)
//	})
package golden
