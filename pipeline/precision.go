package pipeline

import (
	"bytes"
	_ "embed" // precision.jsonl
	"encoding/json"
	"fmt"
	"sync"

	"github.com/mmserve/mmserve/internal/kernel"
)

// Precision is a measured Deviation of a model's arithmetic from float32, by `mmserve verify
// --against f32`.
type Precision struct {
	Model        string `json:"model"` // directory of the case
	Architecture string `json:"architecture"`
	DType        string `json:"dtype"`
	Deviation
}

// Markdown is a row of the table in docs/performance.md.
func (p Precision) Markdown() string {
	agree, rank := "", ""
	if p.Choices > 0 {
		agree, rank = fmt.Sprintf("%d of %d", p.Agree, p.Choices), fmt.Sprint(p.Rank)
	}
	return fmt.Sprintf("| %s | %s | %d | %.2g | %.2g | %.2g | %.2g | %s | %s |", p.Model, p.DType, p.Inputs,
		p.Latents.Max, p.Latents.Relative, p.Logits.Max, p.Logits.Relative, agree, rank)
}

// String is the measurement in words.
func (p Precision) String() string {
	s := fmt.Sprintf("%s against float32, full size, seeded weights, %d inputs: latents off by %.2g at most, relative RMS %.2g; logits by %.2g, %.2g",
		p.DType, p.Inputs, p.Latents.Max, p.Latents.Relative, p.Logits.Max, p.Logits.Relative)
	if p.Choices > 0 {
		s += fmt.Sprintf("; same best class in %d of %d", p.Agree, p.Choices)
	}
	return s
}

//go:embed precision.jsonl
var precisionJSON []byte

// precisionOf is what was measured of a directory's model in an arithmetic, "" when nothing was.
func precisionOf(d *Dir, dt kernel.DType) string {
	for _, p := range Precisions() {
		if p.Architecture == d.Arch && p.DType == dt.String() {
			return p.String()
		}
	}
	return ""
}

// Precisions are the published architectures' measurements (pipeline/precision.jsonl, written
// by `make precision`).
var Precisions = sync.OnceValue(func() []Precision {
	var list []Precision
	for d := json.NewDecoder(bytes.NewReader(precisionJSON)); d.More(); {
		var p Precision
		if err := d.Decode(&p); err != nil {
			panic("pipeline: precision.jsonl: " + err.Error())
		}
		list = append(list, p)
	}
	return list
})
