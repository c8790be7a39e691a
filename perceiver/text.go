package perceiver

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// embedding turns token ids into rows: token embedding + position embedding, no scaling.
type embedding struct {
	tokens    weights.Table // vocab_size × d_model
	positions weights.Table // max_position_embeddings × d_model
}

func newEmbedding(s weights.Scope, c Config) embedding {
	return embedding{
		tokens:    s.Table("embeddings.weight", c.VocabSize, c.ModelDim),
		positions: s.Table("position_embeddings.weight", c.MaxPositions, c.ModelDim),
	}
}

// rows checks the ids of a batch and returns its inputs. A nil mask attends to everything.
func (e embedding) rows(ids [][]int, mask [][]float32) ([]Input, error) {
	if mask != nil && len(mask) != len(ids) {
		return nil, fmt.Errorf("perceiver: %d masks for a batch of %d", len(mask), len(ids))
	}
	in := make([]Input, len(ids))
	for b, seq := range ids {
		if len(seq) == 0 || len(seq) > e.positions.Rows() {
			return nil, fmt.Errorf("perceiver: input %d: %d tokens, want 1 to %d", b, len(seq), e.positions.Rows())
		}
		for i, id := range seq {
			if id < 0 || id >= e.tokens.Rows() {
				return nil, fmt.Errorf("perceiver: input %d: token %d is %d, want 0 to %d", b, i, id, e.tokens.Rows()-1)
			}
		}
		in[b].Rows = textRows{e, seq}
		if mask != nil {
			in[b].Mask = mask[b]
		}
	}
	return in, nil
}

// textRows is the embedded rows of one sequence.
type textRows struct {
	embedding
	ids []int
}

func (t textRows) Dims() (int, int) { return len(t.ids), t.tokens.Dim() }

func (t textRows) Read(dst tensor.Tensor, from, to int) error {
	w := t.tokens.Dim()
	kernel.Parallel((to-from+63)/64, func(part int) {
		pos := make([]float32, w)
		for i := from + 64*part; i < min(to, from+64*part+64); i++ {
			row := dst.Row(i - from)
			t.tokens.Row(row, t.ids[i])
			t.positions.Row(pos, i)
			for j := range row {
				row[j] += pos[j]
			}
		}
	})
	return nil
}

// encodeText runs the encoder over token ids.
func encodeText(ctx context.Context, a *tensor.Arena, e *Encoder, emb embedding, ids [][]int, mask [][]float32) (tensor.Tensor, error) {
	in, err := emb.rows(ids, mask)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return encode(ctx, a, e, in)
}

// encode emits preprocessor_output and runs the encoder.
func encode(ctx context.Context, a *tensor.Arena, e *Encoder, in []Input) (tensor.Tensor, error) {
	if len(in) == 0 {
		return tensor.Tensor{}, fmt.Errorf("perceiver: empty batch")
	}
	if a.Trace != nil {
		rows := make([]Rows, len(in))
		for i, x := range in {
			rows[i] = x.Rows
		}
		if err := traceRows(a, "preprocessor_output", rows); err != nil {
			return tensor.Tensor{}, err
		}
	}
	return e.Encode(ctx, a, in)
}

// MaskedLM is PerceiverForMaskedLM: bytes in, a score for every byte at every position out.
type MaskedLM struct {
	Config  Config
	Encoder *Encoder
	Decoder *Decoder
	emb     embedding
	queries Matrix         // max_position_embeddings × d_model
	head    *kernel.Packed // the token embeddings again
	bias    []float32
}

// The decoder of the masked language model has a fixed head count and query width.
const (
	mlmHeads = 8
	mlmQK    = 8 * 32
)

func newMaskedLM(c Config, s weights.Scope, opt Options) (Network, error) {
	dec := shape{query: c.ModelDim, key: c.LatentDim, qk: mlmQK, v: c.ModelDim, heads: mlmHeads, widening: 1, act: c.Act}
	if err := c.checkCross(c.ModelDim); err != nil {
		return nil, err
	}
	if c.ModelDim%mlmHeads != 0 {
		return nil, fmt.Errorf("perceiver: config: \"d_model\": %d is not a multiple of the decoder's %d heads", c.ModelDim, mlmHeads)
	}
	p := s.At("perceiver")
	m := &MaskedLM{Config: c, emb: newEmbedding(p.At("input_preprocessor"), c)}
	m.Encoder = newEncoder(p, c, c.ModelDim, opt)
	d := p.At("decoder")
	m.queries = Matrix(d.Tensor("output_position_encodings.position_embeddings", c.MaxPositions, c.ModelDim))
	m.Decoder = newDecoder(d, decoderShape{shape: dec}, opt)
	m.head = m.emb.tokens.Packed()
	m.bias = s.Tensor("embedding_decoder.bias", c.VocabSize).Data
	return m, nil
}

// Forward returns logits as scratch, B×P×V with P = max_position_embeddings and V = vocab_size:
// the decoder answers every position, also those past the text. ids holds 1 to P ids a text;
// mask, nil for all ones, holds a value in [0,1] for each of them.
func (m *MaskedLM) Forward(ctx context.Context, a *tensor.Arena, ids [][]int, mask [][]float32) (tensor.Tensor, error) {
	logits := a.New(len(ids), m.Config.MaxPositions, m.Config.VocabSize)
	x, err := encodeText(ctx, a, m.Encoder, m.emb, ids, mask)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return logits, m.DecodeAt(ctx, a, x, nil, logits)
}

// Encode returns the latents of token ids as scratch, B×N×D.
func (m *MaskedLM) Encode(ctx context.Context, a *tensor.Arena, ids [][]int, mask [][]float32) (tensor.Tensor, error) {
	return encodeText(ctx, a, m.Encoder, m.emb, ids, mask)
}

// Rows returns the inputs of token ids: what the encoder reads.
func (m *MaskedLM) Rows(ids [][]int, mask [][]float32) ([]Input, error) { return m.emb.rows(ids, mask) }

// DecodeAt writes the logits of the positions at of every element (B×len(at)×V) to dst; nil
// positions are all of them. latents is B×N×D.
func (m *MaskedLM) DecodeAt(ctx context.Context, a *tensor.Arena, latents tensor.Tensor, at []int, dst tensor.Tensor) error {
	mark := a.Mark()
	defer a.Release(mark)
	var q Rows = m.queries
	if at != nil {
		picked := a.New(len(at), m.Config.ModelDim)
		for i, p := range at {
			if p < 0 || p >= m.Config.MaxPositions {
				return fmt.Errorf("perceiver: position %d, want 0 to %d", p, m.Config.MaxPositions-1)
			}
			copy(picked.Row(i), tensor.Tensor(m.queries).Row(p))
		}
		q = Matrix(picked)
	}
	queries := make([]Rows, latents.Dim(0))
	for i := range queries {
		queries[i] = q
	}
	v := m.Config.VocabSize
	err := m.Decoder.Decode(ctx, a, m.Decoder.Remember(a, latents), queries, func(item, from int, y tensor.Tensor) error {
		out := dst.At(item).Slice(from, from+y.Dim(0))
		kernel.Gemm(out.Data, v, y.Data, y.Cols(), y.Dim(0), m.head, kernel.Epilogue{Bias: m.bias})
		return finite("logits", out)
	})
	if err != nil {
		return err
	}
	a.Emit("logits", dst)
	return nil
}

// SequenceClassifier is PerceiverForSequenceClassification: bytes in, class scores out.
type SequenceClassifier struct {
	Config  Config
	Encoder *Encoder
	emb     embedding
	head    classHead
}

func newSequenceClassifier(c Config, s weights.Scope, opt Options) (Network, error) {
	if err := c.checkCross(c.ModelDim); err != nil {
		return nil, err
	}
	p := s.At("perceiver")
	m := &SequenceClassifier{Config: c, emb: newEmbedding(p.At("input_preprocessor"), c)}
	m.Encoder = newEncoder(p, c, c.ModelDim, opt)
	m.head = newClassHead(p.At("decoder", "decoder"), c, opt)
	return m, nil
}

// Forward returns the logits of token ids as scratch, B×labels; see MaskedLM.Forward for ids and
// mask.
func (m *SequenceClassifier) Forward(ctx context.Context, a *tensor.Arena, ids [][]int, mask [][]float32) (tensor.Tensor, error) {
	x, err := encodeText(ctx, a, m.Encoder, m.emb, ids, mask)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return m.head.Decode(ctx, a, x)
}

// Encode returns the latents of token ids as scratch, B×N×D.
func (m *SequenceClassifier) Encode(ctx context.Context, a *tensor.Arena, ids [][]int, mask [][]float32) (tensor.Tensor, error) {
	return encodeText(ctx, a, m.Encoder, m.emb, ids, mask)
}

// Decode returns the logits of latents B×N×D as scratch, B×labels.
func (m *SequenceClassifier) Decode(ctx context.Context, a *tensor.Arena, latents tensor.Tensor) (tensor.Tensor, error) {
	return m.head.Decode(ctx, a, latents)
}

// Decoder is what answers with the logits: to its own query, and to others as wide.
func (m *SequenceClassifier) Decoder() *Decoder { return m.head.decoder }

// Rows returns the inputs of token ids: what the encoder reads.
func (m *SequenceClassifier) Rows(ids [][]int, mask [][]float32) ([]Input, error) {
	return m.emb.rows(ids, mask)
}
