package main

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/internal/spelling"
)

// settings are the server's options. Each has one name, as a flag (--max-body), in the
// environment (MMSERVE_MAX_BODY) and in the configuration file (max-body:). A flag beats the
// environment, which beats the file, which beats the default.
type settings struct {
	fs     *flag.FlagSet
	origin map[string]string // where each value came from

	config     string
	addr       string
	admin      string
	pprof      bool
	models     modelList
	def        string
	dtype      string
	kernels    string
	threads    int
	slots      int
	maxBody    int64
	maxItems   int
	maxConns   int
	deadline   time.Duration
	memory     int64
	budget     int64
	keys       string
	plugins    string
	tlsCert    string
	tlsKey     string
	drainDelay time.Duration
	drainLimit time.Duration
	noUI       bool
	insecure   bool
	logLevel   string
	bodyRate   int64
	wait       time.Duration

	remoteHosts   hostList
	remoteMax     int64
	remoteTimeout time.Duration
}

// hostList is the hosts that media may be fetched from.
type hostList []api.Host

func (l *hostList) String() string {
	names := make([]string, len(*l))
	for i, h := range *l {
		names[i] = h.String()
	}
	return strings.Join(names, ",")
}

func (l *hostList) Set(s string) error {
	for name := range strings.SplitSeq(s, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		h, err := api.ParseHost(name)
		if err != nil {
			return err
		}
		*l = append(*l, h)
	}
	return nil
}

// remote is how media are fetched by URL; nil without hosts: then none are.
func (s *settings) remote() *api.Remote {
	if len(s.remoteHosts) == 0 {
		return nil
	}
	return &api.Remote{Hosts: s.remoteHosts, MaxBytes: s.remoteMax, Timeout: s.remoteTimeout}
}

// modelList is name=DIR pairs; a bare DIR is named by its last element.
type modelList []string

func (l *modelList) String() string { return strings.Join(*l, ",") }

func (l *modelList) Set(s string) error {
	for m := range strings.SplitSeq(s, ",") {
		if m = strings.TrimSpace(m); m != "" {
			*l = append(*l, m)
		}
	}
	return nil
}

func newSettings(fs *flag.FlagSet) *settings {
	s := &settings{fs: fs, origin: map[string]string{}}
	fs.StringVar(&s.config, "config", "", "YAML `FILE` with any of these settings by name")
	fs.StringVar(&s.addr, "addr", "127.0.0.1:8080", "address to listen on; beyond loopback only with keys")
	fs.StringVar(&s.admin, "admin-listen", "", "`ADDRESS` of a listener of its own for metrics, health and administration, or unix:PATH; empty: they are on --addr")
	fs.BoolVar(&s.pprof, "pprof", false, "serve Go's profiles on the admin listener")
	fs.Var(&s.models, "models", "models to serve: `NAME=DIR`, comma-separated or repeated, DIR:bf16 in an arithmetic of its own; empty serves the built-in one")
	fs.StringVar(&s.def, "default-model", "", "the model of requests that name none; empty: the first")
	fs.StringVar(&s.dtype, "dtype", "", dtypeUsage)
	fs.StringVar(&s.kernels, "kernels", "", "kernel set: avx512, avx2, neon or portable; empty picks the best")
	fs.IntVar(&s.threads, "threads", 0, "threads of the kernels; 0 means all cores")
	fs.IntVar(&s.slots, "slots", 0, "passes that run at once; 0 means one a kernel thread")
	fs.Int64Var(&s.maxBody, "max-body", 64<<20, "largest request body, in `BYTES`; less where --memory is small")
	fs.IntVar(&s.maxItems, "max-items", 128, "most items of one request")
	fs.IntVar(&s.maxConns, "max-connections", 4096, "most connections of a listener; the longest silent one makes way")
	fs.DurationVar(&s.deadline, "deadline", time.Minute, "longest a request may take")
	fs.DurationVar(&s.wait, "queue-wait", 500*time.Millisecond, "longest expected wait, at the measured rate, before requests are refused")
	fs.Int64Var(&s.bodyRate, "body-rate", 4096, "least `BYTES` a second of an arriving body")
	fs.Int64Var(&s.memory, "memory", 0, "most that the process may hold, in `BYTES`, 192 MiB at least; bodies, media and answers are refused rather than pass it; 0: GOMEMLIMIT, or four fifths of the machine or its cgroup")
	fs.Int64Var(&s.budget, "model-budget", 0, "most `BYTES` of loaded weights; the least recently used model goes first; 0: three quarters of --memory")
	fs.StringVar(&s.keys, "keys", "", "YAML `FILE` of API keys: name, sha256, scopes, rate, burst; read again on SIGHUP; none: no key is asked for")
	fs.StringVar(&s.plugins, "plugins", "", "`DIR` of programs that are modalities (see modality/external); read at start; empty: none")
	fs.StringVar(&s.tlsCert, "tls-cert", "", "certificate `FILE` (PEM); read again on SIGHUP")
	fs.StringVar(&s.tlsKey, "tls-key", "", "private key `FILE` of the certificate; read again with it")
	fs.DurationVar(&s.drainDelay, "drain-delay", 0, "wait between failing /readyz and closing the listener on shutdown")
	fs.DurationVar(&s.drainLimit, "drain-limit", 30*time.Second, "longest wait for requests in flight on shutdown")
	fs.BoolVar(&s.noUI, "no-ui", false, "leave the page at /ui/ out")
	fs.BoolVar(&s.insecure, "insecure", false, "listen beyond loopback without keys all the same, and answer any page and any Host header")
	fs.Var(&s.remoteHosts, "remote-hosts", "`HOSTS` that media named by URL may be fetched from: name or *.suffix, https unless http:// is said, :port; empty: none")
	fs.Int64Var(&s.remoteMax, "remote-max", 16<<20, "largest medium fetched by URL, in `BYTES`")
	fs.DurationVar(&s.remoteTimeout, "remote-timeout", 10*time.Second, "longest that fetching the media of one request may take")
	fs.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	return s
}

// envPrefix begins the name of every setting in the environment.
const envPrefix = "MMSERVE_"

// otherEnv is what is like a setting and is meant for clients.
var otherEnv = []string{"MMSERVE_KEY", "MMSERVE_ADMIN"}

// meant suggests the known name that an unknown one is few slips away from, capitals and dashes
// aside.
func meant(name string, known []string) string {
	plain := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }
	names := map[string]string{}
	for _, k := range known {
		names[plain(k)] = k
	}
	best := spelling.Nearest(plain(name), slices.Sorted(maps.Keys(names)), max(2, len(strings.TrimPrefix(name, envPrefix))/4))
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", names[best])
}

// envName is a setting's name in the environment.
func envName(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// load parses the command line, then fills what it left unsaid from the environment and the
// file. An unknown name in the file is an error.
func (s *settings) load(args []string) error {
	rest, err := parse(s.fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected operand %q", rest[0])
	}
	s.fs.Visit(func(f *flag.Flag) { s.origin[f.Name] = "flag" })
	var faults []string
	set := func(f *flag.Flag, value, origin string) {
		if s.origin[f.Name] != "" {
			return
		}
		if err := s.fs.Set(f.Name, value); err != nil {
			faults = append(faults, fmt.Sprintf("%s: %s=%q: %v", origin, f.Name, value, err))
		}
		s.origin[f.Name] = origin
	}
	known := map[string]string{}
	s.fs.VisitAll(func(f *flag.Flag) {
		known[envName(f.Name)] = f.Name
		if v, ok := os.LookupEnv(envName(f.Name)); ok {
			set(f, v, "environment")
		}
	})
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		// Others set variables of this prefix too (Kubernetes one a service): only what looks like a
		// slip of the pen is a fault.
		if strings.HasPrefix(name, envPrefix) && known[name] == "" && !slices.Contains(otherEnv, name) {
			if hint := meant(name, slices.Collect(maps.Keys(known))); hint != "" {
				faults = append(faults, fmt.Sprintf("environment: unknown setting %q%s", name, hint))
			}
		}
	}
	file, err := s.file()
	if err != nil {
		return err
	}
	for name, v := range file {
		f := s.fs.Lookup(name)
		if f == nil || name == "config" {
			faults = append(faults, fmt.Sprintf("%s: unknown setting %q%s", s.config, name, meant(name, slices.Collect(maps.Values(known)))))
			continue
		}
		set(f, fileValue(v), s.config)
	}
	s.fs.VisitAll(func(f *flag.Flag) {
		if least := int64(leastOf[f.Name]); number(f.Value) < least {
			faults = append(faults, fmt.Sprintf("%s: %s=%s: want %d at least", cmp.Or(s.origin[f.Name], "default"), f.Name, f.Value, least))
		}
	})
	if len(faults) > 0 {
		slices.Sort(faults)
		return fmt.Errorf("settings: %s", strings.Join(faults, "\n\t"))
	}
	return nil
}

// leastOf is the least that a number may be, where that is not 0.
var leastOf = map[string]int{"max-connections": 1}

// number is the value of a setting that is a number or a duration, else the largest there is.
func number(v flag.Value) int64 {
	if g, ok := v.(flag.Getter); ok {
		switch n := g.Get().(type) {
		case int:
			return int64(n)
		case int64:
			return n
		case time.Duration:
			return int64(n)
		}
	}
	return math.MaxInt64
}

// file reads the configuration file, if there is one.
func (s *settings) file() (map[string]any, error) {
	if s.config == "" {
		return nil, nil
	}
	b, err := os.ReadFile(s.config)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	var m map[string]any
	if err := yaml.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("settings: %s: %w", s.config, err)
	}
	return m, nil
}

// fileValue is a YAML value as a flag's text: lists are joined by commas, and a mapping
// becomes name=value pairs.
func fileValue(v any) string {
	switch v := v.(type) {
	case nil: // "keys:" and nothing more
		return ""
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = fileValue(x)
		}
		return strings.Join(parts, ",")
	case map[string]any:
		var parts []string
		for k, x := range v {
			parts = append(parts, k+"="+fileValue(x))
		}
		slices.Sort(parts)
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(v)
}

// readKeys reads a file of API keys: a list, or a mapping with the list under "keys".
func readKeys(path string) ([]api.Key, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	var doc struct {
		Keys []api.Key `yaml:"keys"`
	}
	if err := yaml.UnmarshalWithOptions(b, &doc, yaml.Strict()); err != nil {
		// The place and the reason, without the lines around it: this goes to the log.
		return nil, fmt.Errorf("keys: %s: %s", path, yaml.FormatError(err, false, false))
	}
	if len(doc.Keys) == 0 {
		return nil, fmt.Errorf("keys: %s: no keys", path)
	}
	return doc.Keys, nil
}
