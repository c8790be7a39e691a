// Package modality turns real media into byte arrays: M rows × C channels, content first and a
// position code after it, read in blocks and never held whole.
//
//	a, err := modality.New("image", nil)             // nil options: the Perceiver image settings
//	h, err := in.Header()
//	cost, err := a.Plan(ctx, h)                      // from the header alone: sizes, rows, bytes
//	array, err := a.Adapt(ctx, in)                   // *Array: M×C rows on demand
//	defer array.Close()
//	m, c := array.Dims()
//	err = array.Read(dst, from, to)                  // dst: (to-from)×C
//
// An Adapter is one medium. The built-in ones are rows of the table in register.go; Register
// adds another, from the init of the package that defines it. Every adapter, built in or not,
// passes the suite in modality/modalitytest.
//
// Whatever is wrong with an input is a *media.Error with a code of one list, found as early as
// the header when the header tells. Limits stand in one struct, media.Limits, and are checked
// before decoding and while decoding.
//
// To add a medium: write a type with the three methods of Adapter (about fifty lines, see
// examples/custommodality), call Register, and call modalitytest.Run in its test.
package modality
