package weights

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Source is a checkpoint: tensors under names. Sources are safe for concurrent use.
type Source interface {
	// Names lists every tensor, sorted.
	Names() iter.Seq[string]
	// Stat returns the stored type and shape of a tensor, false when there is none.
	Stat(name string) (DType, []int, bool)
	// Load returns a tensor's bytes.
	Load(name string) (Raw, error)
}

// Generator is a Source that also answers names it does not list, with any shape.
type Generator interface {
	Source
	// Strict reports that only listed names are answered after all.
	Strict() bool
	// Fill writes float32 elements from, from+1, … of the tensor of that name and shape.
	Fill(dst []float32, name string, shape []int, from int)
}

// errNoTensor is what Load answers to an unknown name.
func errNoTensor(name string) error { return fmt.Errorf("weights: no tensor %q", clip(name)) }

// Memory is a Source of tensors in memory.
type Memory map[string]Raw

// Names lists the tensors, sorted.
func (m Memory) Names() iter.Seq[string] { return slices.Values(slices.Sorted(maps.Keys(m))) }

// Stat returns a tensor's type and shape.
func (m Memory) Stat(name string) (DType, []int, bool) {
	r, ok := m[name]
	return r.DType, r.Shape, ok
}

// Load returns a tensor.
func (m Memory) Load(name string) (Raw, error) {
	if r, ok := m[name]; ok {
		return r, nil
	}
	return Raw{}, errNoTensor(name)
}

// view is a Source under other names: outer maps to inner.
type view struct {
	src   Source
	names []string          // outer names, sorted
	inner map[string]string // outer → inner
	guess func(string) string
}

func newView(src Source, outer func(string) (string, bool), guess func(string) string) Source {
	v := &view{src: src, inner: map[string]string{}, guess: guess}
	for in := range src.Names() {
		out, ok := outer(in)
		if !ok {
			continue
		}
		if _, taken := v.inner[out]; !taken {
			v.names = append(v.names, out)
			v.inner[out] = in
		}
	}
	slices.Sort(v.names)
	return v
}

func (v *view) Names() iter.Seq[string] { return slices.Values(v.names) }

func (v *view) Stat(name string) (DType, []int, bool) {
	in, ok := v.inner[name]
	if !ok {
		return "", nil, false
	}
	return v.src.Stat(in)
}

func (v *view) Load(name string) (Raw, error) {
	in, ok := v.inner[name]
	if !ok {
		return Raw{}, errNoTensor(name)
	}
	return v.src.Load(in)
}

func (v *view) beneath(name string) (Source, string, bool) {
	in, listed := v.inner[name]
	if !listed {
		in = v.guess(name)
	}
	return v.src, in, listed
}

// String names the source beneath, if it has a name.
func (v *view) String() string { return nameOf(v.src) }

// Rename gives every tensor of src the name that f returns; an empty name hides it. When two
// take the same name, the first in sorted order keeps it.
func Rename(src Source, f func(name string) string) Source {
	return newView(src,
		func(in string) (string, bool) { out := f(in); return out, out != "" },
		func(out string) string { return out })
}

// Sub is the part of src below prefix, without it: Sub(src, "perceiver.") has "norm.weight"
// where src has "perceiver.norm.weight".
func Sub(src Source, prefix string) Source {
	return newView(src,
		func(in string) (string, bool) { return strings.CutPrefix(in, prefix) },
		func(out string) string { return prefix + out })
}

// merged is several sources, each below its prefix.
type merged struct {
	prefixes []string // longest first
	parts    map[string]Source
	names    []string
}

// Merge is the union of parts, each below its key: {"vision.": a, "": b} has a's "x" as
// "vision.x" and b's "y" as "y". The longest prefix that holds a name wins.
func Merge(parts map[string]Source) Source {
	m := &merged{parts: maps.Clone(parts)}
	for p, src := range parts {
		m.prefixes = append(m.prefixes, p)
		for n := range src.Names() {
			m.names = append(m.names, p+n)
		}
	}
	slices.SortFunc(m.prefixes, func(a, b string) int {
		return cmp.Or(len(b)-len(a), strings.Compare(a, b))
	})
	slices.Sort(m.names)
	m.names = slices.Compact(m.names)
	return m
}

func (m *merged) Names() iter.Seq[string] { return slices.Values(m.names) }

func (m *merged) Stat(name string) (DType, []int, bool) {
	if src, in, listed := m.beneath(name); listed {
		return src.Stat(in)
	}
	return "", nil, false
}

func (m *merged) Load(name string) (Raw, error) {
	if src, in, listed := m.beneath(name); listed {
		return src.Load(in)
	}
	return Raw{}, errNoTensor(name)
}

// beneath prefers a part that lists the name, then one that would make it up.
func (m *merged) beneath(name string) (src Source, inner string, listed bool) {
	for _, p := range m.prefixes {
		in, under := strings.CutPrefix(name, p)
		if !under {
			continue
		}
		if _, _, ok := m.parts[p].Stat(in); ok {
			return m.parts[p], in, true
		}
		if _, _, makes := generatorOf(m.parts[p], in); makes && src == nil {
			src, inner = m.parts[p], in
		}
	}
	return src, inner, false
}

// String names the parts that have names.
func (m *merged) String() string {
	var names []string
	for _, p := range m.prefixes {
		if n := nameOf(m.parts[p]); n != "" {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

// nameOf is what a source calls itself, "" for nothing.
func nameOf(src Source) string {
	if s, ok := src.(fmt.Stringer); ok {
		return s.String()
	}
	return ""
}

// redirect is a source that passes questions on: beneath says to whom, and under which name.
// src is nil when nobody would answer.
type redirect interface {
	beneath(name string) (src Source, inner string, listed bool)
}

// leaf follows redirections to the source that answers a name. It is nil when there is none.
func leaf(src Source, name string) (Source, string) {
	for {
		r, ok := src.(redirect)
		if !ok {
			return src, name
		}
		src, name, _ = r.beneath(name)
	}
}

// generatorOf finds the generator that makes up a name which src does not list.
func generatorOf(src Source, name string) (Generator, string, bool) {
	end, inner := leaf(src, name)
	g, ok := end.(Generator)
	return g, inner, ok && !g.Strict()
}

// dropper is a source that can forget the pages of a tensor that was read.
type dropper interface{ drop(name string) }

// drop tells src that the bytes of a tensor are not needed for now.
func drop(src Source, name string) {
	end, inner := leaf(src, name)
	if d, ok := end.(dropper); ok {
		d.drop(inner)
	}
}
