package modality

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/mmserve/mmserve/modality/media"
)

// builtins are the media this package brings.
var builtins = map[string]Open{
	"audio":      OpenAudio,
	"fuse":       OpenFuse,
	"image":      OpenImage,
	"pointcloud": OpenPointCloud,
	"text":       OpenText,
	"video":      OpenVideo,
}

var (
	registryMu sync.RWMutex
	registry   map[string]Open
	standards  []standard // of the whole registry, by name: made when first asked for, anew after Register
)

// standard is a registered medium with its default options. What it says of itself is kept, for
// detection asks it of every input.
type standard struct {
	name    string
	adapter Adapter // nil when the defaults do not open
	info    Info
	sniffer Sniffer // nil when the adapter is none
}

func init() { registry = maps.Clone(builtins) }

// Register adds a medium under a name of lower-case letters, digits and underscores. It is
// called from the init of the package that defines the adapter, and panics when the name is
// taken or malformed.
func Register(name string, open Open) {
	registryMu.Lock()
	defer registryMu.Unlock()
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		panic("modality: register: bad name " + name)
	}
	if open == nil {
		panic("modality: register " + name + ": nil")
	}
	if _, taken := registry[name]; taken {
		panic("modality: register " + name + ": taken")
	}
	registry[name] = open
}

// Names lists the registered media, sorted.
func Names() []string {
	registryMu.RLock()
	defer registryMu.RUnlock()
	return slices.Sorted(maps.Keys(registry))
}

// Lookup returns the opener of a medium.
func Lookup(name string) (Open, bool) {
	registryMu.RLock()
	defer registryMu.RUnlock()
	open, ok := registry[name]
	return open, ok
}

// New opens the adapter of a medium with options (nil: the defaults).
func New(name string, options json.RawMessage) (Adapter, error) {
	open, ok := Lookup(name)
	if !ok {
		return nil, media.Errorf(media.Unsupported, "modality: no modality %q: have %s", name, strings.Join(Names(), ", "))
	}
	return open(options)
}

// Infos describes every registered medium with its default options, sorted by name. A medium
// whose defaults do not open is left out.
func Infos() []Info {
	var out []Info
	for _, s := range opened() {
		if s.adapter != nil {
			out = append(out, s.adapter.Info())
		}
	}
	return out
}

// opened is every registered medium with its default options, sorted by name. Nobody changes it.
func opened() []standard {
	registryMu.RLock()
	have, want := standards, len(registry)
	registryMu.RUnlock()
	if len(have) == want { // media are only ever added
		return have
	}
	var all []standard
	for _, name := range Names() {
		if i := slices.IndexFunc(have, func(s standard) bool { return s.name == name }); i >= 0 {
			all = append(all, have[i])
			continue
		}
		s := standard{name: name}
		if a, err := New(name, nil); err == nil {
			s.adapter, s.info = a, a.Info()
			s.sniffer, _ = a.(Sniffer)
		}
		all = append(all, s)
	}
	registryMu.Lock()
	defer registryMu.Unlock()
	if len(all) > len(standards) {
		standards = all
	}
	return all
}

// standardOf is the medium of that name with its default options, without an adapter for none.
func standardOf(name string) standard {
	for _, s := range opened() {
		if s.name == name {
			return s
		}
	}
	return standard{name: name}
}
