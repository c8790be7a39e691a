package api

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/png"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/pipeline"
)

// silence is a WAV of 16-bit mono.
func silence(seconds, rate int) []byte {
	b := append([]byte("RIFF????WAVEfmt "), 16, 0, 0, 0, 1, 0, 1, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(rate))
	b = binary.LittleEndian.AppendUint32(b, uint32(2*rate))
	b = append(b, 2, 0, 16, 0, 'd', 'a', 't', 'a')
	b = binary.LittleEndian.AppendUint32(b, uint32(2*rate*seconds))
	b = append(b, make([]byte, 2*rate*seconds)...)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
	return b
}

// A picture of nine megapixels and a minute of sound among texts, the same few FLOPs to a small
// network, leave the queue's rate what a core does, and a refusal names a time that is near.
func TestQueueOfMixedMedia(t *testing.T) {
	m, err := pipeline.OpenFS(t.Context(), models.Default(), pipeline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var large bytes.Buffer
	if err := png.Encode(&large, image.NewGray(image.Rect(0, 0, 3000, 3000))); err != nil {
		t.Fatal(err)
	}
	type kind struct {
		name  string
		plan  pipeline.Plan
		truth time.Duration // what a turn takes
	}
	var kinds []kind
	for _, c := range []struct {
		name string
		data []byte
		off  float64 // how many times as long as planned decoding takes, as formats differ
	}{{"text", []byte("a short text of thirty-six bytes, ok"), 1}, {"picture", large.Bytes(), 2}, {"sound", silence(60, 48000), 0.5}} {
		plan, err := m.Plan(t.Context(), pipeline.Item{Parts: []pipeline.Part{{Input: media.Bytes("", c.data)}}})
		if err != nil {
			t.Fatal(err)
		}
		truth := time.Duration(plan.FLOPs/coreRate*1e9) + time.Duration(c.off*float64(plan.Decoding))
		kinds = append(kinds, kind{c.name, plan, truth})
	}
	for _, k := range kinds[1:] {
		if k.plan.Decoding < 100*time.Millisecond || turnCost(k.plan) < 5*k.plan.FLOPs {
			t.Errorf("%s: decoding is planned as %s, %g FLOPs as a turn of %g", k.name, k.plan.Decoding, k.plan.FLOPs, turnCost(k.plan))
		}
	}
	if k := kinds[0]; turnCost(k.plan) != k.plan.FLOPs {
		t.Errorf("a text's turn costs %g, its FLOPs are %g", turnCost(k.plan), k.plan.FLOPs)
	}
	synctest.Test(t, func(t *testing.T) {
		q := &Queue{Slots: 1, Wait: 500 * time.Millisecond}
		done := make(chan int)
		for client := range 40 {
			go func() {
				refused := 0
				defer func() { done <- refused }()
				for i := range 50 {
					k := kinds[0]
					if client < 4 {
						k = kinds[1+i%2]
					}
					leave, err := q.Enter(t.Context(), turnCost(k.plan))
					var full *Saturated
					switch {
					case errors.As(err, &full):
						refused++
						if full.RetryAfter > 4*time.Second {
							t.Errorf("a %s is refused for %s", k.name, full.RetryAfter)
						}
						time.Sleep(100 * time.Millisecond)
						continue
					case err != nil:
						t.Error(err)
						return
					}
					time.Sleep(k.truth)
					leave()
					if rate := q.Load().Rate; rate < coreRate/3 || rate > coreRate*3 {
						t.Errorf("after a %s the rate is %g, a core does %g", k.name, rate, coreRate)
					}
				}
			}()
		}
		refused := 0
		for range 40 {
			refused += <-done
		}
		if refused == 0 {
			t.Error("nothing was refused: the load was too small to show anything")
		}
	})
}

// A text that ends early teaches the queue what it took, not what it was admitted for.
func TestQueueSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Queue{Slots: 1}
		for range 50 {
			p, err := q.Reserve()
			if err != nil {
				t.Fatal(err)
			}
			leave, err := p.Enter(t.Context(), 1e12)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			p.Settle(1e10)
			leave()
			p.Close()
		}
		if l := q.Load(); l.Rate < 0.9e10 || l.Rate > 1.1e10 || l.Admitted != 0 {
			t.Errorf("%+v, want a rate of 1e10 and nothing admitted", l)
		}
	})
}
