package perceiver

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Network is a loaded Perceiver. Its concrete type, by architecture, has the typed forward pass;
// RunCase is the common door for reference cases.
type Network interface {
	// RunCase runs the inputs of a reference case and emits every stage through a.Trace under
	// the names that reference cases use.
	RunCase(ctx context.Context, a *tensor.Arena, in CaseInput) error
}

// CaseInput is the inputs of a reference case by argument name: "inputs", "attention_mask",
// "input_ids", "prefix_len", …; an element of a dictionary, inputs["image"], is "inputs.image".
type CaseInput struct {
	Floats map[string]tensor.Tensor // floating-point arguments
	Ints   map[string]Ints          // integer and boolean arguments (0 and 1)
	Case   json.RawMessage          // the whole case.json, for what is not a tensor; may be nil
}

// Ints is an integer argument. A plain number has no axes and one value.
type Ints struct {
	Data  []int64
	Shape []int
}

// loader builds the network of one architecture.
type loader func(c Config, s weights.Scope, opt Options) (Network, error)

// loaders is the table of architectures of the Perceiver IO configuration; those of other
// configurations have their parser in front.
var loaders map[string]func(config []byte, s weights.Scope, opt Options) (Network, error)

func init() {
	loaders = map[string]func([]byte, weights.Scope, Options) (Network, error){
		"PerceiverForMaskedLM":                          perceiverIO(newMaskedLM),
		"PerceiverForSequenceClassification":            perceiverIO(newSequenceClassifier),
		"PerceiverForImageClassificationLearned":        perceiverIO(newImageClassifier(newLearnedPixels)),
		"PerceiverForImageClassificationFourier":        perceiverIO(newImageClassifier(newFourierPixels)),
		"PerceiverForImageClassificationConvProcessing": perceiverIO(newImageClassifier(newConvPixels)),
		"PerceiverForOpticalFlow":                       perceiverIO(newOpticalFlow),
		"PerceiverForMultimodalAutoencoding":            perceiverIO(newMultimodal),
		"PerceiverModel":                                perceiverIO(newModel),
		"Perceiver":                                     loadOriginal,
		"PerceiverCausalLanguageModel":                  loadCausalLM,
	}
}

func perceiverIO(build loader) func([]byte, weights.Scope, Options) (Network, error) {
	return func(config []byte, s weights.Scope, opt Options) (Network, error) {
		c, err := ParseConfig(config)
		if err != nil {
			return nil, err
		}
		return build(c, s, opt)
	}
}

// Load builds the network that a config.json names, from the weights below s. Call it inside
// weights.Bind. An unknown architecture is an error that lists the known ones.
func Load(config []byte, s weights.Scope, opt Options) (Network, error) {
	arch, err := Architecture(config)
	if err != nil {
		return nil, err
	}
	load, ok := loaders[arch]
	if !ok {
		return nil, fmt.Errorf("perceiver: config: \"architectures\": %.60q is not one of %v", arch, Architectures())
	}
	return load(config, s, opt)
}

// float returns a floating-point argument, which must have the number of axes.
func (in CaseInput) float(name string, axes int) (tensor.Tensor, error) {
	t, ok := in.Floats[name]
	if !ok {
		return tensor.Tensor{}, fmt.Errorf("perceiver: case: no floating-point argument %s", name)
	}
	if len(t.Shape) != axes {
		return tensor.Tensor{}, fmt.Errorf("perceiver: case: argument %s has shape %v, want %d axes", name, t.Shape, axes)
	}
	return t, nil
}

// tokens returns an integer argument of shape B×n as rows of ids.
func (in CaseInput) tokens(name string) ([][]int, error) {
	t, ok := in.Ints[name]
	if !ok {
		return nil, fmt.Errorf("perceiver: case: no integer argument %s", name)
	}
	if len(t.Shape) != 2 {
		return nil, fmt.Errorf("perceiver: case: argument %s has shape %v, want 2 axes", name, t.Shape)
	}
	rows := make([][]int, t.Shape[0])
	for b := range rows {
		rows[b] = make([]int, t.Shape[1])
		for i := range rows[b] {
			rows[b][i] = int(t.Data[b*t.Shape[1]+i])
		}
	}
	return rows, nil
}

// list returns a flat integer argument; absent is nil.
func (in CaseInput) list(name string) []int {
	var out []int
	for _, x := range in.Ints[name].Data {
		out = append(out, int(x))
	}
	return out
}

// mask returns an optional B×… mask of integers or floats as one row an element.
func (in CaseInput) mask(name string) [][]float32 {
	if t, ok := in.Floats[name]; ok && len(t.Shape) > 0 {
		return splitRows(t.Data, t.Shape[0])
	}
	t, ok := in.Ints[name]
	if !ok || len(t.Shape) == 0 {
		return nil
	}
	data := make([]float32, len(t.Data))
	for i, x := range t.Data {
		data[i] = float32(x)
	}
	return splitRows(data, t.Shape[0])
}

func splitRows(data []float32, b int) [][]float32 {
	rows := make([][]float32, b)
	n := len(data) / max(b, 1)
	for i := range rows {
		rows[i] = data[i*n : (i+1)*n]
	}
	return rows
}
