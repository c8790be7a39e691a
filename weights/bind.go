package weights

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/tensor"
)

// Options tune Bind. The zero value binds everything strictly in float32.
type Options struct {
	DType  tensor.DType // arithmetic of linear layers, tensor.F32 unless set
	Ignore []string     // names that may be left over; * stands for any run of characters
	Prefix string       // place to start from, "" for the root
}

// binder is what the scopes of one binding share.
type binder struct {
	src    Source
	used   map[string]bool
	ignore []string
	err    BindError
}

// Mismatch is a tensor whose shape is not the wanted one.
type Mismatch struct {
	Name      string
	Got, Want []int
}

// BindError is everything about a checkpoint that does not fit a model.
type BindError struct {
	Source    string     // where the weights came from, when known
	Missing   []Mismatch // wanted, not there (Got is nil)
	MisShaped []Mismatch
	LeftOver  []Mismatch // there, not wanted (Want is nil)
	Bad       []string   // unreadable or not finite, each naming its tensor
	Faults    []string   // a constructor's own complaints
}

// maxListed bounds the lines of a BindError's text.
const maxListed = 60

func (e *BindError) missing(name string, want []int) {
	e.Missing = append(e.Missing, Mismatch{Name: name, Want: slices.Clone(want)})
}

func (e *BindError) shape(name string, got, want []int) {
	e.MisShaped = append(e.MisShaped, Mismatch{Name: name, Got: slices.Clone(got), Want: slices.Clone(want)})
}

func (e *BindError) bad(name, what string) {
	e.Bad = append(e.Bad, fmt.Sprintf("tensor %q: %s", clip(name), what))
}

func (e *BindError) empty() bool {
	return len(e.Missing)+len(e.MisShaped)+len(e.LeftOver)+len(e.Bad)+len(e.Faults) == 0
}

// sort orders every list by name and removes repeats.
func (e *BindError) sort() {
	for _, list := range []*[]Mismatch{&e.Missing, &e.MisShaped, &e.LeftOver} {
		slices.SortFunc(*list, func(a, b Mismatch) int { return strings.Compare(a.Name, b.Name) })
		*list = slices.CompactFunc(*list, func(a, b Mismatch) bool {
			return a.Name == b.Name && slices.Equal(a.Want, b.Want)
		})
	}
	for _, list := range []*[]string{&e.Bad, &e.Faults} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
}

// Error lists the faults, one a line, sorted, at most 60 of them.
func (e *BindError) Error() string {
	var lines, head []string
	count := func(n int, what string) {
		if n > 0 {
			head = append(head, fmt.Sprintf("%d %s", n, what))
		}
	}
	count(len(e.Faults), "refused")
	count(len(e.Missing), "missing")
	count(len(e.MisShaped), "mis-shaped")
	count(len(e.Bad), "unreadable")
	count(len(e.LeftOver), "left over")
	lines = append(lines, e.Faults...)
	for _, m := range e.Missing {
		lines = append(lines, fmt.Sprintf("missing %q %v", clip(m.Name), m.Want))
	}
	for _, m := range e.MisShaped {
		lines = append(lines, fmt.Sprintf("tensor %q: shape %v, want %v", clip(m.Name), m.Got, m.Want))
	}
	lines = append(lines, e.Bad...)
	for _, m := range e.LeftOver {
		lines = append(lines, fmt.Sprintf("left over %q %v", clip(m.Name), m.Got))
	}
	if n := len(lines) - maxListed; n > 0 {
		lines = append(lines[:maxListed], fmt.Sprintf("and %d more", n))
	}
	text := "weights: "
	if e.Source != "" {
		text += e.Source + ": "
	}
	return text + strings.Join(head, ", ") + ":\n\t" + strings.Join(lines, "\n\t")
}

// Bind builds a model from src. Every tensor must be there, have the wanted shape, be finite
// and be used: else a *BindError says all that is wrong at once. An error of build itself is
// returned when nothing else is wrong. Once Bind returns, src may be closed.
func Bind[M any](src Source, build func(Scope) (M, error), opts ...Options) (M, error) {
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	b := &binder{src: src, used: map[string]bool{}, ignore: slices.Clone(o.Ignore)}
	b.err.Source = nameOf(src)
	var none M
	m, err, whole := run(b, Scope{b: b, dtype: o.DType}.At(o.Prefix), build)
	if whole && err == nil {
		b.leftOver()
	}
	if !b.err.empty() {
		b.err.sort()
		return none, &b.err
	}
	if err != nil {
		return none, err
	}
	return m, nil
}

// run calls build. A panic that follows from stand-ins for missing tensors, and a fault of
// the mapped file, are not panics of ours: whole is then false.
func run[M any](b *binder, s Scope, build func(Scope) (M, error)) (m M, err error, whole bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if fault, ok := p.(interface {
			runtime.Error
			Addr() uintptr
		}); ok {
			err = fmt.Errorf("weights: the file changed while it was read: %w", fault)
			return
		}
		if b.err.empty() {
			panic(p)
		}
	}()
	m, err = build(s)
	return m, err, true
}

// leftOver notes the names nobody used.
func (b *binder) leftOver() {
	for name := range b.src.Names() {
		if !b.used[name] && !matchAny(b.ignore, name) {
			_, shape, _ := b.src.Stat(name)
			b.err.LeftOver = append(b.err.LeftOver, Mismatch{Name: name, Got: shape})
		}
	}
}

func matchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if match(p, name) {
			return true
		}
	}
	return false
}

// match reports whether name fits a pattern in which * stands for any run of characters.
func match(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(name, parts[0])
	if !ok {
		return false
	}
	if len(parts) == 1 {
		return rest == ""
	}
	for _, p := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, p)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
