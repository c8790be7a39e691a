package refcase

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// maxInput bounds a generated input, in values.
const maxInput = 1 << 28

// loadNames reads names.json, the tensors of a checkpoint that is not stored.
func (c *Case) loadNames() error {
	if !c.has("names.json") {
		return nil
	}
	for _, stored := range []string{"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"} {
		if c.has(stored) {
			return nil
		}
	}
	text, err := c.read("names.json")
	if err != nil {
		return err
	}
	var names struct {
		Architecture string         `json:"architecture"`
		Tensors      []weights.Spec `json:"tensors"`
	}
	if err := json.Unmarshal(text, &names); err != nil {
		return fmt.Errorf("names.json: %w", err)
	}
	if len(names.Tensors) == 0 {
		return errors.New("names.json: no tensors")
	}
	c.FullSize, c.specs = true, names.Tensors
	if c.Architecture == "" {
		c.Architecture = names.Architecture
	}
	c.Kind = strings.TrimSuffix(c.Kind, "-fullsize")
	return nil
}

// loadSummaries reads the statistics and probes of stages that are not stored.
func (c *Case) loadSummaries(d description) error {
	var expected map[string]summary
	if err := json.Unmarshal(d.Expected, &expected); err != nil || len(expected) == 0 {
		return errors.New("neither expected.safetensors nor statistics of stages: nothing to compare with")
	}
	for name, s := range expected {
		var err error
		if c.stages[name], err = s.stage(); err != nil {
			return fmt.Errorf("expected %s: %w", name, err)
		}
	}
	return nil
}

// formula is an input of a full-size case: text, or text and a shape.
type formula struct {
	From  string
	Shape []int
}

// UnmarshalJSON takes "float_input(…)" and {"from": "float_input('x', shape)", "shape": […]}.
func (f *formula) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &f.From) == nil {
		return nil
	}
	var long struct {
		From  string `json:"from"`
		Shape []int  `json:"shape"`
	}
	err := json.Unmarshal(b, &long)
	f.From, f.Shape = long.From, long.Shape
	return err
}

// generateInputs makes the inputs whose description is a formula.
func (c *Case) generateInputs(d description) error {
	if len(d.Inputs) == 0 {
		return nil
	}
	var inputs map[string]formula
	if err := json.Unmarshal(d.Inputs, &inputs); err != nil {
		return fmt.Errorf("inputs: %w", err)
	}
	for argument, f := range inputs {
		name := argumentName(argument)
		if _, stored := c.inputs[name]; stored || f.From == "" {
			continue // in the file; or null
		}
		raw, err := f.generate(d.InputNote)
		if err != nil {
			return fmt.Errorf("input %s: %w", argument, err)
		}
		c.inputs[name] = raw
	}
	return nil
}

var (
	floatInput    = regexp.MustCompile(`^float_input\(["']([^"']+)["'],\s*(shape|\([0-9, ]*\))\)`)
	zeroInput     = regexp.MustCompile(`^zeros\s*\(([0-9, ]*)\)`)
	rangeInput    = regexp.MustCompile(`^arange\((?:(\d+),\s*)?(\d+)\)`)
	languageInput = regexp.MustCompile(`^language_input\(([^)]*)\)\s*(ids|mask)\b`)
	firstReal     = regexp.MustCompile(`first (\d+) patches`)
)

// generate follows the formula. note says how masks are made.
func (f formula) generate(note string) (weights.Raw, error) {
	switch {
	case floatInput.MatchString(f.From):
		m := floatInput.FindStringSubmatch(f.From)
		shape := f.Shape
		if m[2] != "shape" {
			shape = sizes(m[2])
		}
		return floatValues(m[1], shape)
	case zeroInput.MatchString(f.From):
		shape := sizes(zeroInput.FindStringSubmatch(f.From)[1])
		n, err := count(shape)
		if err != nil {
			return weights.Raw{}, err
		}
		return weights.Raw{DType: weights.F32, Shape: shape, Data: make([]byte, 4*n)}, nil
	case rangeInput.MatchString(f.From):
		m := rangeInput.FindStringSubmatch(f.From)
		from, _ := strconv.Atoi(m[1]) // "" is 0
		to, err := strconv.Atoi(m[2])
		if err != nil || to < from || to-from > maxInput {
			return weights.Raw{}, fmt.Errorf("range %q", f.From)
		}
		v := make([]int64, to-from)
		for i := range v {
			v[i] = int64(from + i)
		}
		return ints(v, len(v)), nil
	case languageInput.MatchString(f.From):
		m := languageInput.FindStringSubmatch(f.From)
		seq, length := 2048, 1500
		if given := sizes(m[1]); len(given) == 2 {
			seq, length = given[0], given[1]
		}
		if seq < 0 || seq > maxInput || length < 1 || length > seq {
			return weights.Raw{}, fmt.Errorf("%d tokens in %d positions", length, seq)
		}
		ids, mask := languageIDs(seq, length)
		if m[2] == "ids" {
			return ints(ids, 1, seq), nil
		}
		return ints(mask, 1, seq), nil
	case strings.Contains(f.From, "input_note") && firstReal.MatchString(note):
		return firstPatches(note, f.Shape)
	}
	return weights.Raw{}, fmt.Errorf("unknown formula %.80q", f.From)
}

// firstPatches is a mask (images×patches) whose first rows of each image are real.
func firstPatches(note string, shape []int) (weights.Raw, error) {
	n, err := count(shape)
	if err != nil || len(shape) == 0 {
		return weights.Raw{}, fmt.Errorf("mask of shape %v", shape)
	}
	keep, err := strconv.Atoi(firstReal.FindStringSubmatch(note)[1])
	if err != nil {
		return weights.Raw{}, err
	}
	data := make([]byte, n)
	for i := range data {
		if i%shape[len(shape)-1] < keep {
			data[i] = 1
		}
	}
	return weights.Raw{DType: weights.Bool, Shape: shape, Data: data}, nil
}

// sizes reads "(1,3,224,224)", with or without the brackets.
func sizes(s string) []int {
	shape := []int{}
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		n, err := strconv.Atoi(part)
		if err != nil {
			n = -1 // refused by count
		}
		shape = append(shape, n)
	}
	return shape
}

// count is the number of values of a shape, at most maxInput.
func count(shape []int) (int, error) {
	n := int64(1)
	for _, d := range shape {
		if d < 0 || d > maxInput || n*int64(d) > maxInput {
			return 0, fmt.Errorf("shape %v: at most %d values", shape, maxInput)
		}
		n *= int64(d)
	}
	return int(n), nil
}

// floatValues is uniform in [-√3, √3), unit variance, by the formula of weights.Seeded.
func floatValues(name string, shape []int) (weights.Raw, error) {
	n, err := count(shape)
	if err != nil {
		return weights.Raw{}, err
	}
	x := make([]float32, n)
	weights.Uniform(x, "input:"+name, 0, 0, math.Sqrt(3))
	return weights.Encode(tensor.Of(x, shape...), weights.F32)
}

// languageIDs returns the token ids and the mask of the full-size language case: of seq
// positions length are [CLS], bytes and [SEP]; 52 to 60 are [MASK].
func languageIDs(seq, length int) (ids, mask []int64) {
	ids, mask = make([]int64, seq), make([]int64, seq)
	for i := range length {
		mask[i] = 1
		ids[i] = 6 + int64(weights.HashAt("input:ids", i)>>32%256)
		if i >= 52 && i <= 60 {
			ids[i] = 3
		}
	}
	ids[0] = 4
	ids[length-1] = 5
	return ids, mask
}
