package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/pipeline"
)

// Time limits of a connection. The body has its own: a least rate.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// collectorBlind is what the process holds besides what Go's collector counts: the pages of its own
// program and of the weights in it, in bytes.
const collectorBlind = 48 << 20

func serve(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	s := newSettings(fs)
	if err := s.load(args); err != nil {
		return err
	}
	done, err := startPlugins(ctx, s.plugins)
	if err != nil {
		return err
	}
	defer done()
	d, err := newDaemon(s, e)
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// daemon is the running server with what it reloads.
type daemon struct {
	s      *settings
	log    *slog.Logger
	server *api.Server
	keys   *api.Keys
	cert   atomic.Pointer[tls.Certificate]
}

func newDaemon(s *settings, e *env) (*daemon, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return nil, usagef("--log-level %q: want debug, info, warn or error", s.logLevel)
	}
	if err := (&machineFlags{kernels: s.kernels, threads: s.threads}).apply(); err != nil {
		return nil, err
	}
	if err := checkDType(s.dtype); err != nil {
		return nil, err
	}
	if s.memory != 0 && s.memory < leastMemory {
		return nil, usagef("--memory %d: want %d bytes at least, or 0 for four fifths of the machine's", s.memory, leastMemory)
	}
	memory := memoryCeiling(s.memory)
	if memory > 0 {
		debug.SetMemoryLimit(memory - max(memory/8, collectorBlind))
	}
	d := &daemon{s: s, keys: new(api.Keys), log: slog.New(slog.NewJSONHandler(e.stderr, &slog.HandlerOptions{Level: level}))}
	if err := d.reload(); err != nil {
		return nil, err
	}
	if err := d.mayListen("addr", s.addr); err != nil {
		return nil, err
	}
	if s.admin != "" {
		if err := d.mayListen("admin-listen", s.admin); err != nil {
			return nil, err
		}
	} else if s.pprof {
		return nil, usagef("--pprof wants --admin-listen: profiles are not for the public listener")
	}
	if s.budget == 0 {
		s.budget = memory / 4 * 3
	}
	store, def, err := openStore(s, pipeline.Options{DType: s.dtype})
	if err != nil {
		return nil, err
	}
	slots := s.slots
	if slots == 0 {
		slots = kernel.Threads()
	}
	d.server = &api.Server{
		Store: store, Default: def, Keys: d.keys, Log: d.log, MaxBody: s.maxBody, MaxItems: s.maxItems,
		Deadline: s.deadline, Slots: slots, Wait: s.wait, BodyRate: s.bodyRate, Remote: s.remote(), NoUI: s.noUI, Version: buildVersion(),
		Memory: memory, AnyOrigin: s.insecure, AdminApart: s.admin != "", Pprof: s.pprof,
	}
	return d, nil
}

// openStore names the models to serve.
func openStore(s *settings, opt pipeline.Options) (*pipeline.Store, string, error) {
	store := &pipeline.Store{Budget: s.budget}
	def := s.def
	for _, m := range s.models {
		name, dir, ok := strings.Cut(m, "=")
		if !ok {
			name, dir = "", m
		}
		opt := opt
		if base, dtype, ok := cutDType(dir); ok {
			dir, opt.DType = base, dtype
		}
		if name == "" {
			name = filepath.Base(filepath.Clean(dir))
		}
		if strings.Contains(name, "@") {
			return nil, "", usagef("--models %s: a request's @ begins a digest; name it without, NAME=DIR", m)
		}
		if slices.Contains(store.Names(), name) {
			return nil, "", usagef("--models %s: %q names a model before it, too; name them apart, NAME=DIR", m, name)
		}
		if _, err := pipeline.ReadDir(dir); err != nil {
			return nil, "", err
		}
		store.Add(name, func(ctx context.Context) (pipeline.Model, error) { return pipeline.Open(ctx, dir, opt) })
		if def == "" {
			def = name
		}
	}
	if len(s.models) == 0 {
		addBuiltin(store, opt)
		def = cmp.Or(def, builtinName)
	}
	if names := store.Names(); !slices.Contains(names, def) {
		return nil, "", usagef("--default-model %q is none of %s", def, strings.Join(names, ", "))
	}
	return store, def, nil
}

// cutDType takes an arithmetic off the end of a model's directory, "DIR:bf16".
func cutDType(dir string) (base, dtype string, ok bool) {
	i := strings.LastIndexByte(dir, ':')
	if i <= 0 || i == len(dir)-1 || checkDType(dir[i+1:]) != nil {
		return dir, "", false
	}
	return dir[:i], dir[i+1:], true
}

// mayListen refuses an address beyond loopback when no key protects it.
func (d *daemon) mayListen(flag, addr string) error {
	if strings.HasPrefix(addr, unixPrefix) {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return usagef("--%s %q: %v", flag, addr, err)
	}
	ip := net.ParseIP(host)
	if host == "localhost" || ip != nil && ip.IsLoopback() || d.keys.Any() {
		return nil
	}
	if d.s.insecure {
		d.log.Warn("listening beyond loopback without keys", "flag", flag, "addr", addr)
		return nil
	}
	return fmt.Errorf("--%s %s is beyond loopback and there are no keys: give --keys FILE, or --insecure to serve anyone who can reach it", flag, addr)
}

// unixPrefix marks an address that is a socket in the file system, for its owner alone.
const unixPrefix = "unix:"

// listen opens an address; TCP speaks TLS when there is a certificate.
func (d *daemon) listen(addr string) (ln net.Listener, url string, err error) {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		ln, err := listenUnix(path)
		return ln, addr, err
	}
	if ln, err = net.Listen("tcp", addr); err != nil {
		return nil, "", err
	}
	url = "http://" + ln.Addr().String()
	if d.cert.Load() != nil {
		url = "https://" + ln.Addr().String()
		ln = tls.NewListener(ln, &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return d.cert.Load(), nil },
		})
	}
	return ln, url, nil
}

// listenUnix opens a socket that only this user may connect to. One that a dead process left
// behind is replaced; one that answers is not.
func listenUnix(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s%s: another process listens there", unixPrefix, path)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		os.Remove(path)
	}
	private := net.ListenConfig{Control: ownerOnly}
	ln, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil { // where the descriptor's mode does not count
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// reload reads keys and certificate again, all or nothing.
func (d *daemon) reload() error {
	keys, err := readKeys(d.s.keys)
	if err != nil {
		return err
	}
	var cert *tls.Certificate
	if (d.s.tlsCert == "") != (d.s.tlsKey == "") {
		return usagef("--tls-cert and --tls-key go together")
	}
	if d.s.tlsCert != "" {
		pair, err := tls.LoadX509KeyPair(d.s.tlsCert, d.s.tlsKey)
		if err != nil {
			return fmt.Errorf("tls: %w", err)
		}
		cert = &pair
	}
	if err := d.keys.Set(keys); err != nil {
		return err
	}
	d.cert.Store(cert)
	return nil
}

// httpServer serves h under the time limits that hold for every connection.
func (d *daemon) httpServer(h http.Handler) *http.Server {
	open := &conns{limit: d.s.maxConns}
	return &http.Server{
		Handler: h, ConnState: open.follow, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
}

// run serves until ctx ends, then drains: /readyz fails, the public listener closes, requests in
// flight finish, and the admin listener closes last. A second signal ends the process at once.
func (d *daemon) run(ctx context.Context) error {
	hup := make(chan os.Signal, 1) // from the first moment that a client may know of the process
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ln, url, err := d.listen(d.s.addr)
	if err != nil {
		return err
	}
	if d.cert.Load() == nil {
		ln = d.server.Listener(ln)
	}
	failed := make(chan error, 2)
	var wg sync.WaitGroup
	defer wg.Wait()
	start := func(hs *http.Server, ln net.Listener) { wg.Go(func() { failed <- hs.Serve(ln) }) }
	hs, admin := d.httpServer(d.server.Handler()), d.httpServer(d.server.AdminHandler())
	defer admin.Close()
	if d.s.admin != "" {
		adminLn, adminURL, err := d.listen(d.s.admin)
		if err != nil {
			ln.Close()
			return err
		}
		start(admin, adminLn)
		d.log.Info("administration", "url", adminURL)
	}
	background, stop := context.WithCancel(context.Background())
	defer stop()
	wg.Go(func() { d.server.Watch(background) })
	wg.Go(func() { d.onHangup(background, hup) })
	wg.Go(func() { keepGCRoom(background) })
	start(hs, ln)
	d.log.Info("listening", "url", url, "kernels", kernel.Set(), "threads", kernel.Threads(), "pid", os.Getpid())
	select {
	case err := <-failed:
		hs.Close()
		return err
	case <-ctx.Done():
	}
	d.log.Info("draining")
	d.server.Drain()
	wait(d.s.drainDelay)
	limit, cancel := context.WithTimeout(context.Background(), d.s.drainLimit)
	defer cancel()
	if err := hs.Shutdown(limit); err != nil {
		hs.Close()
		return fmt.Errorf("drain: requests still in flight after %s: %w", d.s.drainLimit, err)
	}
	d.log.Info("stopped")
	return nil
}

func wait(t time.Duration) {
	if t > 0 {
		<-time.After(t)
	}
}

// onHangup reloads keys, certificate and models on SIGHUP; what fails stays as it was.
func (d *daemon) onHangup(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		}
		if err := d.reload(); err != nil {
			d.log.Error("reload", "error", err.Error())
			continue
		}
		for _, st := range d.server.Store.Status() {
			name := st.Name
			if st.State == "unloaded" {
				continue // read anew when it is asked for
			}
			if err := d.server.Store.Reload(ctx, name); err != nil {
				d.log.Error("reload", "model", name, "error", err.Error())
			}
		}
		d.log.Info("reloaded")
	}
}
