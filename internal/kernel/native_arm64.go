//go:build arm64 && !purego

package kernel

// nativeSets returns the sets written in assembly. Every arm64 has NEON.
func nativeSets() []*set { return []*set{setNeon} }

var setNeon = &set{
	name:          "neon",
	ok:            func() bool { return true },
	mr:            12,
	lanes:         4,
	tile:          func(t *tileArgs) { tileAcross(t, 8, tileNeon[0][t.rows]) },
	widen:         [2]func(dst *float32, src *uint16, n int){widenF16Neon, widenBF16Neon},
	transpose:     transposePortable,
	transposeRows: 16,
	softmaxTile:   softmaxTileNeon,
	unary: [Tanh + 1]func(dst, x *float32, n int){
		GELU: geluNeon, GELUTanh: geluTanhNeon, QuickGELU: quickGeluNeon, ReLU: reluNeon,
		SiLU: siluNeon, ReLUSquared: reluSquaredNeon, Tanh: tanhNeon,
	},
	sum:         sumNeon,
	maxLanes:    maxLanesNeon,
	squares:     squaresNeon,
	expSum:      expSumNeon,
	affine:      affineNeon,
	add:         addNeon,
	mul:         mulNeon,
	scale:       scaleNeon,
	peak:        peakNeon,
	finish:      finishNeon,
	gridScores:  gridScoresNeon,
	gridWeights: gridWeightsNeon,
	gridBias:    gridBiasNeon,
	keyBias:     keyBiasNeon,
	addLowest:   addLowestNeon,
}
