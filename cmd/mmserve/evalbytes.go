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
	trainShare = 0.9 // of the text; the rest is held out
)

// maskedBytes measures bits per masked byte of held-out text, beside a byte 5-gram's.
func (ev *evaluator) maskedBytes(file string) error {
	if !ev.asked("masked_bytes") {
		return nil
	}
	text, err := os.ReadFile(file)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	cut := int(float64(len(text)) * trainShare)
	train, test := text[:cut], text[cut:]
	windows := len(test) / maskWindow
	bits := make([]float64, windows)
	counts := make([]int, windows)
	failed, err := ev.each(windows, func(i int) error {
		w := test[i*maskWindow : (i+1)*maskWindow]
		p, err := ev.model.Predict(ev.ctx, pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart(masked(w))}}, pipeline.PredictOptions{Top: modality.Vocabulary})
		if err != nil {
			return err
		}
		if len(p.Masks) == 0 {
			return fmt.Errorf("no masks were filled")
		}
		for k, m := range p.Masks {
			truth := int(w[maskFirst+k*maskEvery]) + modality.ByteOffset
			for _, c := range m.Candidates {
				if c.Index == truth {
					bits[i] -= math.Log2(math.Max(float64(c.Score), 1e-12))
					counts[i]++
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	total, n := 0.0, 0
	for i := range bits {
		total += bits[i]
		n += counts[i]
	}
	if n == 0 {
		return nil // the model fills no masks
	}
	beside := fmt.Sprintf("byte 5-gram %.4f", fiveGram(train, test, windows))
	return ev.emit(evalLine{Task: "masked_bytes", Metric: "bits_per_masked_byte", Value: total / float64(n), N: n, Failed: failed, Beside: beside})
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
// sees the four bytes before each (all of them unmasked text).
func fiveGram(train, test []byte, windows int) float64 {
	const order = 4
	type context struct {
		next  map[byte]int
		total int
	}
	tables := make([]map[string]*context, order+1)
	for k := range tables {
		tables[k] = map[string]*context{}
		for i := k; i < len(train); i++ {
			key := string(train[i-k : i])
			c := tables[k][key]
			if c == nil {
				c = &context{next: map[byte]int{}}
				tables[k][key] = c
			}
			c.next[train[i]]++
			c.total++
		}
	}
	total, n := 0.0, 0
	for w := range windows {
		for i := maskFirst; i < maskWindow; i += maskEvery {
			at := w*maskWindow + i
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
