package refcase

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/mmserve/mmserve/weights"
)

// argument is an input as cases with an architecture list it.
type argument struct {
	Argument string          `json:"argument"`
	Tensor   string          `json:"tensor"`
	Value    json.RawMessage `json:"value"`
}

// loadStages reads expected.safetensors.
func (c *Case) loadStages() error {
	src, err := weights.Open(c.Path("expected.safetensors"))
	if err != nil {
		return err
	}
	c.open = append(c.open, src)
	for name := range src.Names() {
		raw, err := src.Load(name)
		if err != nil {
			return err
		}
		c.stages[name] = fullStage(raw)
	}
	if len(c.stages) == 0 {
		return errors.New("no expected tensors")
	}
	return nil
}

// loadInputs reads inputs.safetensors, and the plain values and formulas of the description.
func (c *Case) loadInputs(d description) error {
	if c.has("inputs.safetensors") {
		src, err := weights.Open(c.Path("inputs.safetensors"))
		if err != nil {
			return err
		}
		c.open = append(c.open, src)
		for name := range src.Names() {
			if c.inputs[name], err = src.Load(name); err != nil {
				return err
			}
		}
	}
	var list []argument
	if json.Unmarshal(d.Inputs, &list) != nil {
		return c.generateInputs(d)
	}
	for _, a := range list {
		name := argumentName(a.Argument)
		if a.Tensor != "" {
			raw, ok := c.inputs[a.Tensor]
			if !ok {
				return fmt.Errorf("input tensor %q is not in inputs.safetensors", a.Tensor)
			}
			c.inputs[name] = raw
			continue
		}
		raw, ok, err := plain(a.Value)
		if err != nil {
			return fmt.Errorf("input %s: %w", a.Argument, err)
		}
		if ok {
			c.inputs[name] = raw
		}
	}
	return nil
}

// argumentName turns inputs["image"] into inputs.image.
func argumentName(s string) string {
	return strings.NewReplacer(`["`, ".", `"]`, "", `['`, ".", `']`, "").Replace(s)
}

// plain is a JSON number, boolean or list of whole numbers as a tensor; null is none.
func plain(value json.RawMessage) (weights.Raw, bool, error) {
	text := strings.TrimSpace(string(value))
	if text == "" || text == "null" {
		return weights.Raw{}, false, nil
	}
	var one int64
	var list []int64
	var flag bool
	switch {
	case json.Unmarshal(value, &one) == nil:
		return ints([]int64{one}), true, nil
	case json.Unmarshal(value, &flag) == nil:
		if flag {
			one = 1
		}
		return ints([]int64{one}), true, nil
	case json.Unmarshal(value, &list) == nil:
		return ints(list, len(list)), true, nil
	}
	return weights.Raw{}, false, fmt.Errorf("value %.60s is neither a whole number nor a list of them", text)
}

// ints makes an I64 tensor.
func ints(v []int64, shape ...int) weights.Raw {
	data := make([]byte, 0, 8*len(v))
	for _, x := range v {
		data = binary.LittleEndian.AppendUint64(data, uint64(x))
	}
	return weights.Raw{DType: weights.I64, Shape: append([]int{}, shape...), Data: data}
}
