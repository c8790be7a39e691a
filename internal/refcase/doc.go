// Package refcase loads reference cases: a directory with a configuration, weights, inputs
// and the value of every stage as the reference implementation gave it.
//
// Three layouts are known. A small case has case.json with inputs.safetensors and
// expected.safetensors, where case.json lists inputs either as arguments ("architecture") or
// by name ("kind"). A full-size case has expected.json or case.json with statistics and
// probes in place of tensors, names.json in place of weights, and inputs given as formulas;
// its values come from weights.Seeded. A checkpoint case has expected tensors and weights
// only, and asks that the one reads as the other.
//
//	c, err := refcase.Load(dir)
//	defer c.Close()
//	x, _ := c.Tensor("inputs")
//	…
//	for _, stage := range c.Stages() {
//		maxAbs, tol, err := c.Compare(stage, got[stage])
//	}
//
// To add a layout: a branch in Load and a file that fills a Case.
package refcase
