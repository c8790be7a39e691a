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
	infos      = map[string]Adapter{} // each adapter with its default options, made when first asked for
)

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
	for _, name := range Names() {
		if a := standard(name); a != nil {
			out = append(out, a.Info())
		}
	}
	return out
}

// standard is the adapter of a name with default options, made once.
func standard(name string) Adapter {
	registryMu.RLock()
	a, ok := infos[name]
	registryMu.RUnlock()
	if ok {
		return a
	}
	a, err := New(name, nil)
	if err != nil {
		a = nil
	}
	registryMu.Lock()
	infos[name] = a
	registryMu.Unlock()
	return a
}
