package flamingo

import (
	"fmt"

	"github.com/mmserve/mmserve/tensor"
)

// Sequence is one conversation: the tokens so far, as keys and values of every layer, and its
// pictures. One goroutine uses it at a time.
type Sequence struct {
	n      int
	k, v   [][]float32 // by layer, n×(KVHeads·HeadDim)
	memory []memory    // by decoder layer; empty where no cross-attention stands

	pictures int
	latents  int // of one picture
	seen     int // media tokens so far
	ended    bool
	planned  int   // tokens of the prompt that is being fed part by part
	frozen   bool  // further tokens see what the last one saw
	last     sight // of the last token
}

// NewSequence starts a conversation without tokens or pictures.
func (m *Model) NewSequence() *Sequence {
	return &Sequence{
		k: make([][]float32, m.Config.Layers), v: make([][]float32, m.Config.Layers),
		memory: make([]memory, m.Config.Layers),
	}
}

// Len is the number of tokens so far.
func (s *Sequence) Len() int { return s.n }

// Freeze makes every further token see the pictures that the last one saw, as generation does
// in the references.
func (s *Sequence) Freeze() { s.frozen = true }

// Bytes is the memory held in keys and values.
func (s *Sequence) Bytes() int {
	n := 0
	for i := range s.k {
		n += 4 * (cap(s.k[i]) + cap(s.v[i]) + cap(s.memory[i].k) + cap(s.memory[i].v))
	}
	return n
}

// Condition adds pictures to a sequence: latents P×n×Media, n the same for every call.
func (m *Model) Condition(a *tensor.Arena, s *Sequence, latents tensor.Tensor) error {
	c := m.Config.Cross
	if c == nil {
		return fmt.Errorf("flamingo: this language model has no cross-attention layers to take latents")
	}
	if len(latents.Shape) != 3 || latents.Dim(1) == 0 {
		return fmt.Errorf("flamingo: latents: want pictures×latents×%d, got shape %v", c.Media, latents.Shape)
	}
	if latents.Dim(2) != c.Media {
		return fmt.Errorf("flamingo: latents: the language model's cross-attention takes width %d, got %d", c.Media, latents.Dim(2))
	}
	if s.latents != 0 && s.latents != latents.Dim(1) {
		return fmt.Errorf("flamingo: latents: %d a picture, the sequence has %d", latents.Dim(1), s.latents)
	}
	for i := range m.layers {
		if g := m.layers[i].cross; g != nil {
			g.project(a, &s.memory[i], latents)
		}
	}
	s.latents = latents.Dim(1)
	s.pictures += latents.Dim(0)
	return nil
}

// see says what each of the new tokens sees. visible, if not nil, states it outright: one row
// a token, one value a picture (Idefics' image_attention_mask).
func (s *Sequence) see(c *Cross, tokens []int, visible [][]bool) []sight {
	out := make([]sight, len(tokens))
	for i, id := range tokens {
		switch {
		case visible != nil:
			s.last = stated(visible[i])
		case s.frozen:
		case c.Kind == IdeficsCross:
			s.last = s.ideficsSight(c, id)
		default:
			if id == c.MediaToken {
				s.seen++
			}
			s.last = flamingoSight(s.seen, s.pictures, c.AllPrevious)
		}
		out[i] = s.last
	}
	return out
}

// flamingoSight is OpenFlamingo's rule for a token after seen media tokens. A token before the
// first sees nothing in immediate mode; with all previous pictures allowed, and after more
// media tokens than pictures, every score is the same lowest value.
func flamingoSight(seen, pictures int, allPrevious bool) sight {
	switch {
	case allPrevious && seen == 0:
		return sight{blind: true}
	case allPrevious:
		return sight{to: min(seen, pictures)}
	case seen == 0:
		return sight{}
	case seen > pictures:
		return sight{blind: true}
	}
	return sight{from: seen - 1, to: seen}
}

// ideficsSight is the one picture last named; what follows an end token sees none until the
// next picture, the end token itself still does (processing_idefics.py).
func (s *Sequence) ideficsSight(c *Cross, id int) sight {
	if id == c.MediaToken {
		s.seen++
		s.ended = false
	}
	see := sight{from: s.seen - 1, to: s.seen}
	if s.ended || s.seen == 0 || s.seen > s.pictures {
		see = sight{}
	}
	if id == c.EndToken && c.EndToken >= 0 {
		s.ended = true
	}
	return see
}

// stated turns a row of an attention mask over pictures into a sight.
func stated(row []bool) sight {
	var set []int
	for p, on := range row {
		if on {
			set = append(set, p)
		}
	}
	switch {
	case len(set) == 0:
		return sight{}
	case set[len(set)-1]-set[0] == len(set)-1:
		return sight{from: set[0], to: set[len(set)-1] + 1}
	}
	return sight{set: set}
}
