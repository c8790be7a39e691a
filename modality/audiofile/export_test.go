package audiofile

// IgnoreSums makes checksums of frames and pages count as right, so that fuzzing reaches what lies
// behind them.
func IgnoreSums(on bool) { ignoreSums = on }

// InverseMDCT is the transform of Vorbis blocks.
func InverseMDCT(x []float32) []float32 {
	y := make([]float32, 2*len(x))
	newMDCT(len(y)).inverse(y, x)
	return y
}
