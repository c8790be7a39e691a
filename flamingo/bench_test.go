package flamingo_test

import (
	"fmt"
	"testing"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// mpt1b is OpenFlamingo-3B's language side at its published widths, with 4 of 24 layers.
const mpt1b = `{"model_type":"openflamingo","cross_attn_every_n_layers":1,"media_token_id":50278,"eoc_token_id":50277,"pad_token_id":50279,
	"vision_config":{"hidden_size":1024},
	"lang_config":{"model_type":"mosaic_gpt","vocab_size":50280,"d_model":2048,"n_heads":16,"n_layers":4,"mlp_ratio":4,"max_seq_len":2048,"alibi":true,"attn_qk_ln":true,"no_bias":true}}`

// bytesPerToken is what decoding one token reads: every weight of the layers and the output.
func bytesPerToken(c flamingo.Config, size int) int {
	layer := 4*c.Width*c.Width + 2*c.Width*c.Hidden
	cross := 2*c.Width*c.Cross.Heads*c.Cross.HeadDim + 2*c.Width*c.Cross.Hidden
	return size * (c.Layers*(layer+cross) + c.Vocab*c.Width)
}

// BenchmarkDecode chooses tokens one by one after a short prompt with one picture. GB/s counts
// the weights read; compare it with the machine's copy bandwidth (BenchmarkCopy).
func BenchmarkDecode(b *testing.B) {
	for _, dt := range []kernel.DType{kernel.BF16W, kernel.F32} {
		for _, batch := range []int{1, 4} {
			b.Run(fmt.Sprintf("%v/batch-%d", dt, batch), func(b *testing.B) {
				m := build(b, mpt1b, weights.Options{DType: dt})
				var a tensor.Arena
				parts := make([]flamingo.Part, batch)
				for i := range parts {
					parts[i] = flamingo.Part{Seq: m.NewSequence(), Tokens: []int{50278, 5, 6, 7, 8}}
					if err := m.Condition(&a, parts[i].Seq, random(1, 1, 64, 1024)); err != nil {
						b.Fatal(err)
					}
				}
				step := func() {
					mark := a.Mark()
					if _, err := m.Forward(&a, parts, false); err != nil {
						b.Fatal(err)
					}
					a.Release(mark)
				}
				step()
				for i := range parts {
					parts[i].Tokens = []int{9}
				}
				size := 4
				if dt == kernel.BF16W {
					size = 2
				}
				for b.Loop() {
					step()
					if parts[0].Seq.Len() > 1000 {
						break
					}
				}
				perSecond := float64(b.N) / b.Elapsed().Seconds()
				b.ReportMetric(perSecond*float64(batch), "tokens/s")
				b.ReportMetric(perSecond*float64(bytesPerToken(m.Config, size))/1e9, "GB/s")
			})
		}
	}
}

// BenchmarkPrefill feeds a prompt of 256 tokens.
func BenchmarkPrefill(b *testing.B) {
	m := build(b, mpt1b, weights.Options{DType: kernel.BF16W})
	var a tensor.Arena
	tokens := make([]int, 256)
	for b.Loop() {
		mark := a.Mark()
		if _, err := m.Forward(&a, []flamingo.Part{{Seq: m.NewSequence(), Tokens: tokens}}, false); err != nil {
			b.Fatal(err)
		}
		a.Release(mark)
	}
	b.ReportMetric(256*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
	b.ReportMetric(float64(a.Bytes())/(1<<20), "MiB-scratch")
}

// BenchmarkCopy is the bandwidth of reading 1 GiB and writing it elsewhere, for comparison.
func BenchmarkCopy(b *testing.B) {
	src, dst := make([]byte, 1<<30), make([]byte, 1<<30)
	const part = 1 << 24
	b.SetBytes(2 << 30)
	for b.Loop() {
		kernel.Parallel(len(src)/part, func(i int) { copy(dst[i*part:(i+1)*part], src[i*part:(i+1)*part]) })
	}
}
