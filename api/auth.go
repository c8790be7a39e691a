package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Scope is what a key may do.
type Scope string

// The scopes. A route needs exactly one; ScopePublic needs no key.
const (
	ScopePublic Scope = "public"
	ScopeEncode Scope = "encode" // run models
	ScopeAdmin  Scope = "admin"  // load, unload and reload models, see metrics
)

// Key is an API key as it is kept: its SHA-256, never itself.
type Key struct {
	Name   string  `json:"name" yaml:"name"`
	Hash   string  `json:"sha256" yaml:"sha256"` // 64 hex digits
	Scopes []Scope `json:"scopes" yaml:"scopes"`
	Rate   float64 `json:"rate,omitempty" yaml:"rate"`   // requests a second; zero means no limit
	Burst  int     `json:"burst,omitempty" yaml:"burst"` // zero means the rate, at least one
}

// HashKey returns what is kept of a key.
func HashKey(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Keys is a set of API keys that can be replaced while requests run. The zero value holds
// none: then no key is asked for.
type Keys struct{ set atomic.Pointer[[]heldKey] }

type heldKey struct {
	Key
	hash    [sha256.Size]byte
	limiter *rate.Limiter // nil for no limit
}

// maxRate is the largest rate of a key, in requests a second.
const maxRate = 1e9

// Set replaces the keys, all or nothing. The error names the key at fault.
func (k *Keys) Set(keys []Key) error {
	held := make([]heldKey, 0, len(keys))
	names := map[[sha256.Size]byte]string{}
	for i, key := range keys {
		h := heldKey{Key: key}
		b, err := hex.DecodeString(key.Hash)
		if err != nil || len(b) != sha256.Size {
			return fmt.Errorf("api: key %d (%q): sha256 wants 64 hex digits, got %d characters", i, key.Name, len(key.Hash))
		}
		copy(h.hash[:], b)
		for _, s := range key.Scopes {
			if s != ScopeEncode && s != ScopeAdmin {
				return fmt.Errorf("api: key %d (%q): unknown scope %q (known: %s, %s)", i, key.Name, s, ScopeEncode, ScopeAdmin)
			}
		}
		if !(key.Rate >= 0 && key.Rate <= maxRate) || key.Burst < 0 {
			return fmt.Errorf("api: key %d (%q): rate %v, burst %d: want requests a second, 0 to %.0f, and 0 or more at once", i, key.Name, key.Rate, key.Burst, maxRate)
		}
		if first, twice := names[h.hash]; twice {
			return fmt.Errorf("api: key %d (%q): it is the same key as %q; their scopes could not be told apart", i, key.Name, first)
		}
		names[h.hash] = key.Name
		if key.Rate > 0 {
			h.limiter = rate.NewLimiter(rate.Limit(key.Rate), max(key.Burst, int(key.Rate), 1))
		}
		held = append(held, h)
	}
	k.set.Store(&held)
	return nil
}

// Any reports whether there are keys.
func (k *Keys) Any() bool {
	set := k.set.Load()
	return set != nil && len(*set) > 0
}

// authorize lets a request through to a route of a scope, or says why not. Every key is
// compared, in constant time, so that the time taken tells nothing.
func (k *Keys) authorize(r *http.Request, need Scope) (name string, err error) {
	if need == ScopePublic || !k.Any() {
		return "", nil
	}
	secret := bearer(r)
	if secret == "" {
		return "", problem(codeUnauthorized, "send the key as \"Authorization: Bearer …\" or \"X-API-Key: …\"")
	}
	sum := sha256.Sum256([]byte(secret))
	var found *heldKey
	set := *k.set.Load()
	for i := range set {
		if subtle.ConstantTimeCompare(sum[:], set[i].hash[:]) == 1 {
			found = &set[i]
		}
	}
	if found == nil {
		return "", problem(codeUnauthorized, "the key is not known")
	}
	if !found.allows(need) {
		return found.Name, problem(codeForbidden, fmt.Sprintf("this needs the scope %q", need))
	}
	if l := found.limiter; l != nil {
		if res := l.Reserve(); res.Delay() > 0 {
			wait := res.Delay()
			res.Cancel()
			return found.Name, &overQuota{wait: max(wait, time.Millisecond)}
		}
	}
	return found.Name, nil
}

func (k *heldKey) allows(need Scope) bool {
	for _, s := range k.Scopes {
		if s == need || s == ScopeAdmin {
			return true
		}
	}
	return false
}

func bearer(r *http.Request) string {
	if scheme, s, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(s)
	}
	return r.Header.Get("X-API-Key")
}
