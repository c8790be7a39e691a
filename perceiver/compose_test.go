package perceiver_test

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// parts is a composition of one's own: an encoder and a decoder.
type parts struct {
	enc *perceiver.Encoder
	dec *perceiver.Decoder
}

func compose(c perceiver.Config, channels int, d perceiver.DecoderConfig) (parts, error) {
	return weights.Bind(weights.Random(3), func(s weights.Scope) (parts, error) {
		enc, err := perceiver.NewEncoder(s, c, channels, perceiver.Options{})
		if err != nil {
			return parts{}, err
		}
		dec, err := perceiver.NewDecoder(s.At("decoder"), d, perceiver.Options{})
		return parts{enc, dec}, err
	})
}

func TestCompose(t *testing.T) {
	c, err := perceiver.ParseConfig([]byte(small("PerceiverModel", `"num_cross_attention_heads": 4`)))
	if err != nil {
		t.Fatal(err)
	}
	d := perceiver.DecoderConfig{QueryDim: 20, LatentDim: 32, QKChannels: 16, VChannels: 8, Heads: 4, Widening: 2, Act: "relu", Residual: true, Outputs: 5}
	p, err := compose(c, 12, d)
	if err != nil {
		t.Fatal(err)
	}
	if n, w := p.enc.Latents(); n != 20 || w != 32 || p.enc.Channels() != 12 || p.dec.Width() != 5 {
		t.Errorf("encoder %d→%d×%d, answers %d wide; want 12→20×32, 5", p.enc.Channels(), n, w, p.dec.Width())
	}
	var a tensor.Arena
	in := []perceiver.Input{{Rows: perceiver.Matrices(random(1, 1, 400, 12))[0]}, {Rows: perceiver.Matrices(random(2, 1, 9, 12))[0]}}
	x, err := p.enc.Encode(t.Context(), &a, in)
	if err != nil {
		t.Fatal(err)
	}
	// Elements of a batch may ask different numbers of queries.
	queries := []perceiver.Rows{perceiver.Matrices(random(3, 1, 700, 20))[0], perceiver.Matrices(random(4, 1, 3, 20))[0]}
	got := []tensor.Tensor{tensor.New(700, 5), tensor.New(3, 5)}
	err = p.dec.Decode(t.Context(), &a, p.dec.Remember(&a, x), queries, func(item, from int, y tensor.Tensor) error {
		copy(got[item].Data[5*from:], y.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for item := range got {
		one := tensor.New(1, 1, 20)
		for _, r := range []int{0, 2, got[item].Dim(0) - 1} {
			if err := queries[item].Read(one, r, r+1); err != nil {
				t.Fatal(err)
			}
			m := p.dec.Remember(&a, tensor.Of(x.At(item).Data, 1, 20, 32))
			err := p.dec.Decode(t.Context(), &a, m, perceiver.Matrices(one), func(_, _ int, y tensor.Tensor) error {
				sameBits(t, "a query alone", y.Data, got[item].Row(r))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.dec.Decode(t.Context(), &a, p.dec.Remember(&a, x), perceiver.Matrices(tensor.New(2, 3, 19)), nil); err == nil {
		t.Error("queries of 19 channels were taken")
	}
	bad := func(change func(*perceiver.DecoderConfig)) error {
		d := d
		change(&d)
		_, err := compose(c, 12, d)
		return err
	}
	for _, f := range []struct {
		err  error
		want string
	}{
		{bad(func(d *perceiver.DecoderConfig) { d.Heads = 3 }), "not a multiple"},
		{bad(func(d *perceiver.DecoderConfig) { d.Heads = 0 }), "at least 1"},
		{bad(func(d *perceiver.DecoderConfig) { d.Act = "mish" }), "unknown activation"},
		{func() error { _, err := compose(c, 13, d); return err }(), "13 input channels"},
	} {
		if f.err == nil || !strings.Contains(f.err.Error(), f.want) {
			t.Errorf("error %v, want one with %s", f.err, f.want)
		}
	}
}

// TestStages: encoding, then decoding the latents, is what Forward does; Rows is what is read.
func TestStages(t *testing.T) {
	var a tensor.Arena
	ctx := context.Background()
	same := func(name string, want tensor.Tensor, err error, x, got tensor.Tensor) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		sameBits(t, name, got.Data, want.Data)
		for _, v := range x.Data {
			if math.IsNaN(float64(v)) {
				t.Fatal("NaN in latents")
			}
		}
	}
	image := build(t, subjects[2].config, perceiver.Options{}).(*perceiver.ImageClassifier)
	in := perceiver.Planes(random(1, 1, 3, 20, 30))
	want, err := image.Forward(ctx, &a, in, nil)
	x, err2 := image.Encode(ctx, &a, in, nil)
	if err2 != nil {
		t.Fatal(err2)
	}
	got, err3 := image.Decode(ctx, &a, x)
	if err3 != nil {
		t.Fatal(err3)
	}
	same("image", want, err, x, got)
	rows, err := image.Rows(&a, in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m, c := rows[0].Rows.Dims(); m != 600 || c != 261 {
		t.Errorf("%d rows of %d channels, want 600 of 261", m, c)
	}

	text := build(t, subjects[1].config, perceiver.Options{}).(*perceiver.SequenceClassifier)
	ids, mask := texts([]int{0, 1})
	want, err = text.Forward(ctx, &a, ids, mask)
	if x, err2 = text.Encode(ctx, &a, ids, mask); err2 != nil {
		t.Fatal(err2)
	}
	if got, err3 = text.Decode(ctx, &a, x); err3 != nil {
		t.Fatal(err3)
	}
	same("text", want, err, x, got)
	if rows, err = text.Rows(ids, mask); err != nil || len(rows) != 2 {
		t.Errorf("%d inputs and %v, want 2", len(rows), err)
	}
}
