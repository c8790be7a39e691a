//go:build amd64 && !purego

package kernel

import "golang.org/x/sys/cpu"

// nativeSets returns the sets written in assembly, the best first.
func nativeSets() []*set {
	if cpu.X86.HasAVX512BF16 && cpu.X86.HasAVX512VNNI {
		setAvx512.dots = &dotsAvx512
	}
	return []*set{setAvx512, setAvx2}
}

var dotsAvx512 = dotSet{
	tileBF16:   func(t *tileArgs) { tileBF16Avx512[t.cols/halfPanel][t.rows](t) },
	tileInt8:   func(t *tileArgs) { tileInt8Avx512[t.cols/halfPanel][t.rows](t) },
	cvtBF16:    cvtBF16Avx512,
	pairRows:   pairRowsAvx512,
	minMax:     minMaxAvx512,
	quantise:   quantiseAvx512,
	dequantise: dequantiseAvx512,
	peakBF16:   peakBF16Avx512,
	peakInt8:   peakInt8Avx512,
}

var setAvx512 = &set{
	name: "avx512",
	ok: func() bool {
		return cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL
	},
	mr:    14,
	lanes: 16,
	tile:  func(t *tileArgs) { tileAvx512[t.cols/halfPanel][t.rows](t) },
	widen: [2]func(dst *float32, src *uint16, n int){widenF16Avx512, widenBF16Avx512},
	tileWiden: [2]func(*tileArgs){
		func(t *tileArgs) { tileF16WAvx512[t.cols/halfPanel][t.rows](t) },
		func(t *tileArgs) { tileBF16WAvx512[t.cols/halfPanel][t.rows](t) },
	},
	transpose:     transposeAvx512,
	transposeRows: 16,
	softmaxTile:   softmaxTileAvx512,
	unary: [Tanh + 1]func(dst, x *float32, n int){
		GELU: geluAvx512, GELUTanh: geluTanhAvx512, QuickGELU: quickGeluAvx512, ReLU: reluAvx512,
		SiLU: siluAvx512, ReLUSquared: reluSquaredAvx512, Tanh: tanhAvx512,
	},
	sum:         sumAvx512,
	maxLanes:    maxLanesAvx512,
	squares:     squaresAvx512,
	expSum:      expSumAvx512,
	affine:      affineAvx512,
	add:         addAvx512,
	mul:         mulAvx512,
	scale:       scaleAvx512,
	peak:        peakAvx512,
	finish:      finishAvx512,
	gridScores:  gridScoresAvx512,
	gridWeights: gridWeightsAvx512,
	gridBias:    gridBiasAvx512,
	keyBias:     keyBiasAvx512,
	addLowest:   addLowestAvx512,
}

var setAvx2 = &set{
	name:          "avx2",
	ok:            func() bool { return cpu.X86.HasAVX2 && cpu.X86.HasFMA },
	mr:            6,
	lanes:         8,
	tile:          func(t *tileArgs) { tileAcross(t, min(t.cols, 16), tileAvx2[min(t.cols, 16)/16][t.rows]) },
	widen:         [2]func(dst *float32, src *uint16, n int){widenF16Avx2, widenBF16Avx2},
	transpose:     transposeAvx2,
	transposeRows: 8,
	softmaxTile:   softmaxTileAvx2,
	unary: [Tanh + 1]func(dst, x *float32, n int){
		GELU: geluAvx2, GELUTanh: geluTanhAvx2, QuickGELU: quickGeluAvx2, ReLU: reluAvx2,
		SiLU: siluAvx2, ReLUSquared: reluSquaredAvx2, Tanh: tanhAvx2,
	},
	sum:         sumAvx2,
	maxLanes:    maxLanesAvx2,
	squares:     squaresAvx2,
	expSum:      expSumAvx2,
	affine:      affineAvx2,
	add:         addAvx2,
	mul:         mulAvx2,
	scale:       scaleAvx2,
	peak:        peakAvx2,
	finish:      finishAvx2,
	gridScores:  gridScoresAvx2,
	gridWeights: gridWeightsAvx2,
	gridBias:    gridBiasAvx2,
	keyBias:     keyBiasAvx2,
	addLowest:   addLowestAvx2,
}
