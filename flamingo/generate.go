package flamingo

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/mmserve/mmserve/tensor"
)

// Prompt is what a text continues: tokens, and the pictures they speak of.
type Prompt struct {
	Tokens []int
	// Media holds latents for cross-attention, P×n×Media, one for each media token in order.
	Media tensor.Tensor
	// Soft holds soft tokens, rows×Width, one for each token Config.Soft in order.
	Soft tensor.Tensor
	// Visible states what each token sees; nil derives it (see Part).
	Visible [][]bool
}

// Stream returns the tokens that follow a prompt, as they are chosen. An error ends it; a
// stop token or MaxTokens ends it without one. The text also ends where the context does.
func (m *Model) Stream(ctx context.Context, p Prompt, o Options) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		err := m.generate(ctx, []Prompt{p}, []Options{o}, func(_, id int) bool { return yield(id, nil) })
		if err != nil {
			yield(0, err)
		}
	}
}

// Generate continues several prompts at once and returns the tokens of each. Options are one
// for each prompt, or one for all. A prompt gets the same tokens alone and in a batch.
func (m *Model) Generate(ctx context.Context, prompts []Prompt, o ...Options) ([][]int, error) {
	if len(o) == 0 {
		o = make([]Options, 1)
	}
	if len(o) == 1 && len(prompts) > 1 {
		o = slices.Repeat(o, len(prompts))
	}
	if len(o) != len(prompts) {
		return nil, fmt.Errorf("flamingo: %d options for %d prompts", len(o), len(prompts))
	}
	out := make([][]int, len(prompts))
	err := m.generate(ctx, prompts, o, func(i, id int) bool {
		out[i] = append(out[i], id)
		return true
	})
	return out, err
}

// prefillTokens bounds the tokens of one pass over a prompt, which bounds its scratch.
const prefillTokens = 512

// live is a prompt on its way.
type live struct {
	index int
	seq   *Sequence
	ch    *chooser
	next  int // the token chosen last
	left  int
}

// generate continues every prompt and hands each token to emit, until emit says false.
func (m *Model) generate(ctx context.Context, prompts []Prompt, o []Options, emit func(i, id int) bool) error {
	var a tensor.Arena
	var active []*live
	for i, p := range prompts {
		l := &live{index: i, ch: newChooser(o[i], m.Config), left: o[i].MaxTokens}
		if l.left == 0 {
			l.left = defaultMaxTokens
		}
		logits, err := m.prefill(ctx, &a, l, p)
		if err != nil {
			if len(prompts) > 1 {
				err = fmt.Errorf("prompt %d: %w", i, err)
			}
			return err
		}
		goOn, err := m.take(l, logits, emit)
		if err != nil {
			return err
		}
		if !goOn {
			return nil
		}
		active = append(active, l)
	}
	for {
		active = slices.DeleteFunc(active, func(l *live) bool {
			return l.left <= 0 || m.Config.Context > 0 && l.seq.Len() >= m.Config.Context
		})
		if len(active) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		goOn, err := m.step(&a, active, emit)
		if err != nil || !goOn {
			return err
		}
	}
}

// prefill feeds a prompt and leaves the sequence ready: further tokens see the pictures that
// the last one saw. It returns the logits of the last token.
func (m *Model) prefill(ctx context.Context, a *tensor.Arena, l *live, p Prompt) ([]float32, error) {
	l.seq = m.NewSequence()
	if p.Media.Data != nil {
		if err := m.Condition(a, l.seq, p.Media); err != nil {
			return nil, err
		}
	}
	if len(p.Tokens) == 0 {
		return nil, fmt.Errorf("flamingo: the prompt has no tokens")
	}
	if n := m.Config.Context; n > 0 && len(p.Tokens) > n {
		return nil, fmt.Errorf("flamingo: a prompt of %d tokens: the context of this language model is %d", len(p.Tokens), n)
	}
	soft, places := 0, 0
	for _, id := range p.Tokens {
		if m.Config.Soft >= 0 && id == m.Config.Soft {
			places++
		}
	}
	if p.Soft.Data != nil && p.Soft.Rows() != places {
		return nil, fmt.Errorf("flamingo: soft tokens: %d placeholders in the prompt, %d rows given", places, p.Soft.Rows())
	}
	if p.Visible != nil && len(p.Visible) != len(p.Tokens) {
		return nil, fmt.Errorf("flamingo: image attention mask of %d tokens for %d", len(p.Visible), len(p.Tokens))
	}
	l.seq.planned = len(p.Tokens)
	out := make([]float32, m.Config.Vocab+m.Config.Extra)
	for from := 0; from < len(p.Tokens); from += prefillTokens {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		to := min(from+prefillTokens, len(p.Tokens))
		part := Part{Seq: l.seq, Tokens: p.Tokens[from:to]}
		if p.Visible != nil {
			part.Visible = p.Visible[from:to]
		}
		if p.Soft.Data != nil {
			n := 0
			for _, id := range part.Tokens {
				if id == m.Config.Soft {
					n++
				}
			}
			part.Soft = p.Soft.Reshape(p.Soft.Rows(), p.Soft.Cols()).Slice(soft, soft+n)
			soft += n
		}
		mark := a.Mark()
		logits, err := m.Forward(a, []Part{part}, false)
		if err != nil {
			return nil, err
		}
		copy(out, logits.Row(0))
		a.Release(mark)
	}
	l.seq.Freeze()
	return out, nil
}

// step feeds the token that each sequence chose last and chooses the next.
func (m *Model) step(a *tensor.Arena, active []*live, emit func(i, id int) bool) (bool, error) {
	mark := a.Mark()
	defer a.Release(mark)
	parts := make([]Part, len(active))
	for i, l := range active {
		parts[i] = Part{Seq: l.seq, Tokens: []int{l.next}}
	}
	logits, err := m.Forward(a, parts, false)
	if err != nil {
		return false, err
	}
	for i, l := range active {
		if goOn, err := m.take(l, logits.Row(i), emit); err != nil || !goOn {
			return false, err
		}
	}
	return true, nil
}

// take chooses a token from logits; a stop token ends the sequence.
func (m *Model) take(l *live, logits []float32, emit func(i, id int) bool) (bool, error) {
	for i, x := range logits {
		if x-x != 0 {
			return false, fmt.Errorf("flamingo: logit %d is %v", i, x)
		}
	}
	if l.left <= 0 {
		return true, nil
	}
	id := l.ch.choose(logits)
	if slices.Contains(l.ch.o.Stop, id) || math.IsInf(float64(logits[id]), -1) {
		l.left = 0
		return true, nil
	}
	l.next = id
	l.left--
	return emit(l.index, id), nil
}
