package pipeline

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limit is the most tokens that are drawn: MaxTokens, or what zero stands for.
func (o GenerateOptions) Limit() int {
	if o.MaxTokens <= 0 {
		return 64
	}
	return o.MaxTokens
}

// sampler draws tokens from logits.
type sampler struct {
	opt   GenerateOptions
	rng   *rand.Rand
	order []int
	probs []float64
}

func newSampler(opt GenerateOptions) *sampler {
	return &sampler{opt: opt, rng: rand.New(rand.NewPCG(opt.Seed, 0x9E3779B97F4A7C15))}
}

// pick returns the next token: the likeliest at temperature 0, otherwise one drawn from the
// TopK likeliest whose probabilities reach TopP together.
func (s *sampler) pick(logits []float32) int {
	if s.opt.Temperature <= 0 {
		best := 0
		for i, x := range logits {
			if x > logits[best] {
				best = i
			}
		}
		return best
	}
	s.order, s.probs = s.order[:0], s.probs[:0]
	for i := range logits {
		s.order = append(s.order, i)
	}
	slices.SortStableFunc(s.order, func(a, b int) int { return cmp.Compare(logits[b], logits[a]) })
	if k := s.opt.TopK; k > 0 && k < len(s.order) {
		s.order = s.order[:k]
	}
	best, total := float64(logits[s.order[0]]), 0.0
	for _, i := range s.order {
		p := math.Exp((float64(logits[i]) - best) / s.opt.Temperature)
		s.probs = append(s.probs, p)
		total += p
	}
	if p := s.opt.TopP; p > 0 && p < 1 {
		kept, n := 0.0, 0
		for n < len(s.probs) && kept < p*total {
			kept += s.probs[n]
			n++
		}
		s.probs, total = s.probs[:n], kept
	}
	at := s.rng.Float64() * total
	for n, p := range s.probs {
		if at -= p; at < 0 {
			return s.order[n]
		}
	}
	return s.order[len(s.probs)-1]
}

// textStream turns pieces of bytes into text that is emitted in whole characters, and ends it
// at a stop string.
type textStream struct {
	stop    []string
	emit    func(string) error
	text    strings.Builder
	pending []byte // not emitted yet: part of a character, or of what may become a stop string
	stopped bool
}

func newTextStream(stop []string, emit func(string) error) *textStream {
	return &textStream{stop: stop, emit: emit}
}

// add takes the next bytes and reports whether a stop string has come.
func (t *textStream) add(b []byte) (stopped bool, err error) {
	t.pending = append(t.pending, b...)
	for _, s := range t.stop {
		if i := strings.Index(string(t.pending), s); s != "" && i >= 0 {
			t.pending = t.pending[:i]
			t.stopped = true
			return true, nil
		}
	}
	return false, t.flush(len(t.pending) - t.held())
}

// held is how many of the pending bytes may be the start of a stop string or of a character.
func (t *textStream) held() int {
	n := 0
	for _, s := range t.stop {
		for k := min(len(s)-1, len(t.pending)); k > n; k-- {
			if strings.HasSuffix(string(t.pending), s[:k]) {
				n = k
				break
			}
		}
	}
	for k := 1; k < min(utf8.UTFMax, len(t.pending)+1); k++ {
		tail := t.pending[len(t.pending)-k:]
		if utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				n = max(n, k)
			}
			break
		}
	}
	return n
}

// flush emits the first n pending bytes.
func (t *textStream) flush(n int) error {
	if n <= 0 {
		return nil
	}
	s := strings.ToValidUTF8(string(t.pending[:n]), "\uFFFD")
	t.pending = append(t.pending[:0], t.pending[n:]...)
	t.text.WriteString(s)
	if t.emit == nil {
		return nil
	}
	return t.emit(s)
}

// finish emits what is left and returns the whole text.
func (t *textStream) finish() (string, error) {
	err := t.flush(len(t.pending))
	return t.text.String(), err
}
