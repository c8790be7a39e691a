package pipeline

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// LatentFile is what a file of kept latents holds.
type LatentFile struct {
	Latents []tensor.Tensor // N×D each
	Names   []string        // of each; empty where the file names none
	Queries tensor.Tensor   // O×E, empty without any
	Digest  string          // of the model that the file says it is of
}

// ReadLatents reads a NumPy file (N×D, or items×N×D), or a safetensors file as the server and the
// command line write it: "0.latents", "1.latents", …; "latents"; "queries"; other names are left
// alone. What is neither, is not of floating point or holds more than most items is a *media.Error.
func ReadLatents(data []byte, most int) (LatentFile, error) {
	switch {
	case bytes.HasPrefix(data, []byte("\x93NUMPY")):
		raw, err := weights.ReadNPY(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return LatentFile{}, media.Wrap(err, media.Malformed, "npy")
		}
		var f LatentFile
		return f, f.add("npy", "", raw, most)
	case len(data) > 8 && data[8] == '{':
		return readLatentTensors(data, most)
	}
	return LatentFile{}, media.Errorf(media.Unsupported, "latents are kept as NumPy (.npy) or safetensors files; this is neither")
}

func readLatentTensors(data []byte, most int) (LatentFile, error) {
	fail := func(err error) (LatentFile, error) {
		return LatentFile{}, media.Wrap(err, media.Malformed, "safetensors")
	}
	file, err := weights.Parse("latents.safetensors", data)
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	f := LatentFile{Digest: file.Metadata()["model_digest"]}
	numbered := map[int]string{} // -1: without a number
	for name := range file.Names() {
		number, ok := strings.CutSuffix(name, "."+OutputLatents)
		if i, err := strconv.Atoi(number); ok && err == nil && i >= 0 {
			numbered[i] = name
		}
		if name == OutputLatents {
			numbered[-1] = name
		}
		if name != "queries" {
			continue
		}
		raw, err := file.Load(name)
		if err != nil {
			return fail(err)
		}
		if f.Queries, err = floating(name, raw); err != nil {
			return LatentFile{}, err
		}
	}
	order := make([]int, 0, len(numbered))
	for i := range numbered {
		order = append(order, i)
	}
	slices.Sort(order)
	for _, i := range order {
		raw, err := file.Load(numbered[i])
		if err != nil {
			return fail(err)
		}
		name := ""
		if i >= 0 {
			name = strconv.Itoa(i)
		}
		if err := f.add(numbered[i], name, raw, most); err != nil {
			return LatentFile{}, err
		}
	}
	return f, nil
}

// add takes a tensor of items×N×D apart; anything else is one item, whose shape the model judges.
func (f *LatentFile) add(stored, name string, raw weights.Raw, most int) error {
	n := 1
	if len(raw.Shape) == 3 {
		n = raw.Shape[0]
	}
	if n += len(f.Latents); n > most {
		return media.Exceeds("latents: items", float64(most), float64(n))
	}
	t, err := floating(stored, raw)
	if err != nil {
		return err
	}
	items := []tensor.Tensor{t}
	if len(t.Shape) == 3 {
		items = items[:0]
		for i := range t.Dim(0) {
			items = append(items, t.At(i))
		}
	}
	for _, one := range items {
		f.Latents, f.Names = append(f.Latents, one), append(f.Names, name)
	}
	return nil
}

// floating is a stored tensor of a floating-point type.
func floating(name string, raw weights.Raw) (tensor.Tensor, error) {
	if !raw.DType.Float() {
		return tensor.Tensor{}, media.Errorf(media.Mismatch, "%s: values of type %s, want floating point", fmt.Sprintf("%.40q", name), raw.DType)
	}
	return raw.Tensor(), nil
}
