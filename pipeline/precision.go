package pipeline

import (
	"bytes"
	_ "embed" // what was measured
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
)

// Precision is what was measured of a model's arithmetic against float32: its Deviation, by
// `mmserve verify --against f32`, or for a trained model its Tasks, by `mmserve eval --against
// f32`.
type Precision struct {
	Model        string `json:"model"` // directory of the case, or the model's name
	Architecture string `json:"architecture"`
	Digest       string `json:"digest,omitempty"` // of the trained model
	DType        string `json:"dtype"`
	*Deviation
	Tasks []TaskAgreement `json:"tasks,omitempty"`
}

// TaskAgreement counts choices of a task on labelled data that are the same in two arithmetics.
type TaskAgreement struct {
	Task string `json:"task"`
	N    int    `json:"n"`
	Same int    `json:"same"`
}

// share writes the same choices in percent.
func (t TaskAgreement) share() string {
	return fmt.Sprintf("%.2f %%", 100*float64(t.Same)/float64(t.N))
}

// Markdown is a Deviation's row of the table in docs/performance.md.
func (p Precision) Markdown() string {
	d, agree, rank := p.Deviation, "", ""
	if d.Choices > 0 {
		agree, rank = fmt.Sprintf("%d of %d", d.Agree, d.Choices), fmt.Sprint(d.Rank)
	}
	return fmt.Sprintf("| %s | %s | %d | %.2g | %.2g | %.2g | %.2g | %s | %s |", p.Model, p.DType, d.Inputs,
		d.Latents.Max, d.Latents.Relative, d.Logits.Max, d.Logits.Relative, agree, rank)
}

// AgreementMarkdown is a table of tasks by the arithmetics of rows, all of one model.
func AgreementMarkdown(rows []Precision) string {
	var b strings.Builder
	b.WriteString("| task | choices |")
	for _, r := range rows {
		fmt.Fprintf(&b, " %s |", r.DType)
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(rows)) + "\n")
	if len(rows) == 0 {
		return b.String()
	}
	for i, t := range rows[0].Tasks {
		fmt.Fprintf(&b, "| %s | %d |", t.Task, t.N)
		for _, r := range rows {
			fmt.Fprintf(&b, " %s |", r.Tasks[i].share())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// String is the measurement in words.
func (p Precision) String() string {
	if d := p.Deviation; d != nil {
		s := fmt.Sprintf("%s against float32, full size, seeded weights, %d inputs: latents off by %.2g at most, relative RMS %.2g; logits by %.2g, %.2g",
			p.DType, d.Inputs, d.Latents.Max, d.Latents.Relative, d.Logits.Max, d.Logits.Relative)
		if d.Choices > 0 {
			s += fmt.Sprintf("; same best class in %d of %d", d.Agree, d.Choices)
		}
		return s
	}
	var parts []string
	for _, t := range p.Tasks {
		parts = append(parts, fmt.Sprintf("%s %s of %d", t.Task, t.share(), t.N))
	}
	return p.DType + " against float32, same choice on held-out data: " + strings.Join(parts, ", ")
}

// Measurements of the published architectures, by `make precision`, and of the default model,
// by `make precision-default`.
var (
	//go:embed precision.jsonl
	precisionJSON []byte
	//go:embed precision-default.jsonl
	precisionDefaultJSON []byte
)

// Precisions are all measurements.
var Precisions = sync.OnceValue(func() []Precision {
	var list []Precision
	for d := json.NewDecoder(io.MultiReader(bytes.NewReader(precisionJSON), bytes.NewReader(precisionDefaultJSON))); d.More(); {
		var p Precision
		if err := d.Decode(&p); err != nil {
			panic("pipeline: measured precision: " + err.Error())
		}
		list = append(list, p)
	}
	return list
})

// precisionOf is what was measured of an architecture in an arithmetic, of the trained model
// with that digest where one was; "" when nothing was.
func precisionOf(arch, digest, dtype string) string {
	for _, p := range Precisions() {
		if p.Architecture == arch && p.DType == dtype && (p.Digest == "" || p.Digest == digest) {
			return p.String()
		}
	}
	return ""
}
