package main

import (
	"bytes"
	"fmt"
	"math"
	"os"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/pipeline"
)

// The windows of the masked-byte measure (tools/train/PREPROCESS.md): 126 bytes, of which
// those at index 3, 10, 17, … are masked.
const (
	maskWindow = 126
	maskFirst  = 3
	maskEvery  = 7
)

// heldOut cuts a text into the 90 % that are train and the 10 % that are test.
func heldOut(text []byte) (train, test []byte) {
	cut := int(int64(len(text)) * 9 / 10)
	return text[:cut], text[cut:]
}

// maskedBytes measures bits per masked byte of held-out text, beside a byte 5-gram's.
func (ev *evaluator) maskedBytes(task string) error {
	text, err := os.ReadFile(ev.at("text", "tinyshakespeare.txt"))
	if err != nil {
		return err
	}
	train, part := heldOut(text)
	switch {
	case ev.split == "train":
		part = train
	case !wanted("test", ev.split):
		part = nil
	}
	all := len(part) / maskWindow
	windows := all
	if ev.limit > 0 {
		windows = min(windows, ev.limit)
	}
	if windows == 0 {
		ev.note("%s: no window of %d bytes%s", task, maskWindow, ev.ofSplit())
		return nil
	}
	starts := make([]int, windows)
	for i := range starts {
		starts[i] = i * all / windows * maskWindow
	}
	if ev.against != nil {
		return ev.agreeOnBytes(task, part, starts)
	}
	bits := make([]float64, windows)
	failed, first, err := ev.each(windows, func(i int) (err error) {
		bits[i], err = ev.maskedBits(part[starts[i] : starts[i]+maskWindow])
		return err
	})
	if err != nil {
		return err
	}
	if failed == windows {
		ev.note("%s: left out, the model fills no masks: %v", task, first)
		return nil
	}
	ev.faults(task, failed, windows, first)
	total := 0.0
	for _, b := range bits {
		total += b
	}
	n := windows * masksOf(maskWindow)
	line := evalLine{Task: task, Metric: "bits_per_masked_byte", Value: total / float64(n), N: n, Failed: failed}
	if ev.split != "train" {
		line.Beside = fmt.Sprintf("byte 5-gram %.4f", fiveGram(train, part, starts))
	}
	return ev.emit(line)
}

// masksOf is how many bytes of a window of n are masked.
func masksOf(n int) int { return (n - maskFirst + maskEvery - 1) / maskEvery }

// maskedBits is the sum of -log2 p over the masked bytes of a window. What fails costs as much
// as guessing: 8 bits a byte.
func (ev *evaluator) maskedBits(w []byte) (float64, error) {
	guess := 8 * float64(masksOf(len(w)))
	p, err := ev.model.Predict(ev.ctx, pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart(masked(w))}}, pipeline.PredictOptions{Top: modality.Vocabulary})
	if err != nil {
		return guess, err
	}
	if len(p.Masks) != masksOf(len(w)) {
		return guess, fmt.Errorf("%d masks were filled, want %d", len(p.Masks), masksOf(len(w)))
	}
	bits := 0.0
	for k, m := range p.Masks {
		truth := int(w[maskFirst+k*maskEvery]) + modality.ByteOffset
		score := 0.0
		for _, c := range m.Candidates {
			if c.Index == truth {
				score = float64(c.Score)
			}
		}
		bits -= math.Log2(math.Max(score, 1e-12))
	}
	return bits, nil
}

// masked writes a window with its masked bytes by name.
func masked(w []byte) string {
	var b bytes.Buffer
	for i, c := range w {
		if i >= maskFirst && (i-maskFirst)%maskEvery == 0 {
			b.WriteString("[MASK]")
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// fiveGram is the bits per masked byte of a byte 5-gram with Witten-Bell smoothing, which
// sees the four bytes before each (all of them unmasked text), on the windows of test that
// begin at starts.
func fiveGram(train, test []byte, starts []int) float64 {
	const order = 4
	type context struct {
		next  map[byte]int
		total int
	}
	tables := make([]map[string]*context, order+1)
	for k := range tables {
		tables[k] = map[string]*context{}
		for i := k; i < len(train); i++ {
			c := tables[k][string(train[i-k:i])]
			if c == nil {
				c = &context{next: map[byte]int{}}
				tables[k][string(train[i-k:i])] = c
			}
			c.next[train[i]]++
			c.total++
		}
	}
	total, n := 0.0, 0
	for _, start := range starts {
		for i := maskFirst; i < maskWindow; i += maskEvery {
			at := start + i
			p := 1.0 / 256
			for k := 0; k <= order && at-k >= 0; k++ {
				if c := tables[k][string(test[at-k:at])]; c != nil {
					kinds := float64(len(c.next))
					p = (float64(c.next[test[at]]) + kinds*p) / (float64(c.total) + kinds)
				}
			}
			total -= math.Log2(p)
			n++
		}
	}
	return total / float64(max(n, 1))
}
