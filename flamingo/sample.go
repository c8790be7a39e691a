package flamingo

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// Options say how tokens are chosen. The zero value is greedy, up to 256 tokens, with no
// token that stops.
type Options struct {
	MaxTokens   int     // 0 means 256
	Temperature float64 // 0 means greedy
	TopK        int     // sample among that many likeliest tokens; 0 means all
	TopP        float64 // … and among the likeliest that make up this share; 0 means all
	Seed        uint64  // the same seed gives the same tokens
	Stop        []int   // ids that end the text; they are not returned
	Ban         []int   // ids never chosen, besides the media token
}

// defaultMaxTokens is what MaxTokens 0 means.
const defaultMaxTokens = 256

// chooser picks tokens from logits; one a sequence.
type chooser struct {
	o    Options
	ban  []int
	rng  *rand.Rand
	keep []candidate
}

type candidate struct {
	id    int
	logit float32
	p     float64
}

func newChooser(o Options, c Config) *chooser {
	ch := &chooser{o: o, ban: slices.Clone(o.Ban), rng: rand.New(rand.NewPCG(o.Seed, 0x9e3779b97f4a7c15))}
	if c.Cross != nil {
		ch.ban = append(ch.ban, c.Cross.MediaToken)
	}
	if c.Soft >= 0 {
		ch.ban = append(ch.ban, c.Soft)
	}
	return ch
}

// choose returns the next id. It changes logits. Ties go to the lowest id.
func (ch *chooser) choose(logits []float32) int {
	for _, id := range ch.ban {
		if id >= 0 && id < len(logits) {
			logits[id] = float32(math.Inf(-1))
		}
	}
	if ch.o.Temperature <= 0 {
		return argmax(logits)
	}
	return ch.sample(logits)
}

func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

// sample divides by the temperature, keeps the TopK likeliest, of those the fewest that make
// up TopP, and draws one, as the references do in that order.
func (ch *chooser) sample(logits []float32) int {
	keep := ch.keep[:0]
	for id, l := range logits {
		if !math.IsInf(float64(l), -1) {
			keep = append(keep, candidate{id: id, logit: l})
		}
	}
	slices.SortFunc(keep, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.logit, a.logit), a.id-b.id)
	})
	ch.keep = keep
	if len(keep) == 0 {
		return argmax(logits)
	}
	if k := ch.o.TopK; k > 0 && k < len(keep) {
		keep = keep[:k]
	}
	total := 0.0
	for i := range keep {
		keep[i].p = math.Exp((float64(keep[i].logit) - float64(keep[0].logit)) / ch.o.Temperature)
		total += keep[i].p
	}
	if p := ch.o.TopP; p > 0 && p < 1 {
		sum, n := 0.0, 0
		for n < len(keep) && sum < p*total { // the one that crosses the share stays
			sum += keep[n].p
			n++
		}
		keep, total = keep[:max(n, 1)], sum
	}
	at := ch.rng.Float64() * total
	for _, c := range keep {
		if at -= c.p; at < 0 {
			return c.id
		}
	}
	return keep[len(keep)-1].id
}
