package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
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

func serve(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	s := newSettings(fs)
	if err := s.load(args); err != nil {
		return err
	}
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
	dt, err := kernel.ParseDType(s.dtype)
	if err != nil {
		return nil, usagef("--dtype: %v", err)
	}
	if s.memory > 0 {
		debug.SetMemoryLimit(s.memory)
	}
	d := &daemon{s: s, keys: new(api.Keys), log: slog.New(slog.NewJSONHandler(e.stderr, &slog.HandlerOptions{Level: level}))}
	if err := d.reload(); err != nil {
		return nil, err
	}
	if err := d.mayListen(); err != nil {
		return nil, err
	}
	store, def, err := openStore(s, pipeline.Options{DType: dt})
	if err != nil {
		return nil, err
	}
	slots := s.slots
	if slots == 0 {
		slots = runtime.GOMAXPROCS(0)
	}
	d.server = &api.Server{
		Store: store, Default: def, Keys: d.keys, Log: d.log, MaxBody: s.maxBody, MaxItems: s.maxItems,
		Deadline: s.deadline, Slots: slots, Wait: s.wait, BodyRate: s.bodyRate, Remote: s.remote(), NoUI: s.noUI, Version: buildVersion(),
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
			dir = m
			name = filepath.Base(filepath.Clean(m))
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
		def = builtinName
	}
	return store, def, nil
}

// mayListen refuses an address beyond loopback when no key protects it.
func (d *daemon) mayListen() error {
	host, _, err := net.SplitHostPort(d.s.addr)
	if err != nil {
		return usagef("--addr %q: %v", d.s.addr, err)
	}
	ip := net.ParseIP(host)
	if host == "localhost" || ip != nil && ip.IsLoopback() || d.keys.Any() {
		return nil
	}
	if d.s.insecure {
		d.log.Warn("listening beyond loopback without keys", "addr", d.s.addr)
		return nil
	}
	return fmt.Errorf("%s is beyond loopback and there are no keys: give --keys FILE, or --insecure to serve anyone who can reach it", d.s.addr)
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

// run serves until ctx ends, then drains: /readyz fails, the listener closes, requests in
// flight finish. A second signal ends the process at once.
func (d *daemon) run(ctx context.Context) error {
	ln, err := net.Listen("tcp", d.s.addr)
	if err != nil {
		return err
	}
	hs := &http.Server{
		Handler: d.server.Handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	scheme := "http"
	if d.cert.Load() != nil {
		scheme = "https"
		ln = tls.NewListener(ln, &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return d.cert.Load(), nil },
		})
	}
	background, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { d.server.Watch(background) })
	wg.Go(func() { d.onHangup(background) })
	defer wg.Wait()
	defer stop()
	d.log.Info("listening", "url", fmt.Sprintf("%s://%s", scheme, ln.Addr()), "kernels", kernel.Set(), "threads", kernel.Threads(), "pid", os.Getpid())
	failed := make(chan error, 1)
	wg.Go(func() { failed <- hs.Serve(ln) })
	select {
	case err := <-failed:
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
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
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
func (d *daemon) onHangup(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
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
