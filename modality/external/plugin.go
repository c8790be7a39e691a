package external

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
)

const (
	startLimit = 10 * time.Second // to answer the first "info"
	maxIdle    = 4                // processes of one plug-in that wait for work
	stderrTail = 2 << 10          // bytes of standard error kept for messages
	firstRest  = time.Second      // pause after the second failure in a row; doubles from there
	longRest   = time.Minute
)

// Plugin is a program that is a modality. Its processes start when they are needed, one a
// request under way, as many as there are processors at most (4 at least), and are kept for the
// next; one that crashes, answers nonsense or overruns its time is killed, with what it has
// started, and costs that request alone. After failures in a row the plug-in rests before it is
// tried again. It is safe for concurrent use.
type Plugin struct {
	command []string
	info    modality.Info
	turns   chan struct{} // holds one value a process at work

	mu       sync.Mutex
	idle     []*process
	closed   bool
	failures int // in a row
	rest     time.Time
}

// process is one running copy of the program.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *tail
	kill   func() // ends it and every exchange with it; once
}

// Start runs a program with its arguments and asks what it is. The environment it gets is PATH,
// HOME, TMPDIR and the language settings, nothing else.
func Start(ctx context.Context, command ...string) (*Plugin, error) {
	p := &Plugin{command: command, turns: make(chan struct{}, max(maxIdle, runtime.GOMAXPROCS(0)))}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	a, _, err := p.ask(ctx, request{Op: "info"}, nil, 0)
	if err != nil {
		p.Close()
		return nil, err
	}
	if a.Info == nil || a.Info.Name == "" || a.Info.Doc == "" {
		p.Close()
		return nil, p.errorf("info without name or doc")
	}
	p.info = *a.Info
	p.info.Position, p.info.Composite, p.info.Streams, p.info.Content = "none", false, false, 0
	if len(p.info.Options) == 0 {
		p.info.Options = json.RawMessage(`{"type": "object"}`)
	}
	return p, nil
}

// RegisterDir starts every executable file of a directory, in order of name, and registers each
// as a modality under the name that it gives itself. The plug-ins are the caller's to close. On
// an error none is left running.
func RegisterDir(ctx context.Context, dir string) (plugins []*Plugin, err error) {
	defer func() {
		if err != nil {
			for _, p := range plugins {
				p.Close()
			}
			plugins = nil
		}
	}()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("plug-ins: %w", err)
	}
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil || !info.Mode().IsRegular() || !runnable(info) {
			continue
		}
		path, err := filepath.Abs(filepath.Join(dir, e.Name()))
		if err != nil {
			return plugins, err
		}
		p, err := Start(ctx, path)
		if err != nil {
			return plugins, err
		}
		plugins = append(plugins, p)
	}
	for i, p := range plugins {
		name := p.info.Name
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			return plugins, p.errorf("name %q: want lower-case letters, digits and underscores", name)
		}
		_, taken := modality.Lookup(name)
		if taken || slices.ContainsFunc(plugins[:i], func(q *Plugin) bool { return q.info.Name == name }) {
			return plugins, p.errorf("modality %q is taken", name)
		}
	}
	for _, p := range plugins {
		modality.Register(p.info.Name, p.Open)
	}
	return plugins, nil
}

// runnable reports whether a file is meant to be run; where the system keeps no such bit, by its
// extension.
func runnable(info fs.FileInfo) bool {
	return info.Mode()&0o111 != 0 || strings.EqualFold(filepath.Ext(info.Name()), ".exe")
}

// Info says what the plug-in is.
func (p *Plugin) Info() modality.Info { return p.info }

// Open implements modality.Open. The options go to the program as they are; it judges them when
// it plans.
func (p *Plugin) Open(options json.RawMessage) (modality.Adapter, error) {
	if options != nil {
		var o map[string]json.RawMessage
		if err := json.Unmarshal(options, &o); err != nil {
			return nil, media.Errorf(media.BadOptions, "%s: options: %v", p.info.Name, err)
		}
	}
	return &adapter{p, options}, nil
}

// Close ends the idle processes; those at work end with their request. Later requests fail.
func (p *Plugin) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.stop()
	}
}

type adapter struct {
	p       *Plugin
	options json.RawMessage
}

func (a *adapter) Info() modality.Info { return a.p.info }

// Plan shows the program the head of the medium.
func (a *adapter) Plan(ctx context.Context, h modality.Header) (modality.Cost, error) {
	l := h.Limits.WithDefaults()
	if len(h.Parts) > 0 {
		return modality.Cost{}, media.Errorf(media.Unsupported, "%s: inputs of several parts", a.p.info.Name)
	}
	if h.Size == 0 {
		return modality.Cost{}, media.Errorf(media.Empty, "%s: no bytes", a.p.info.Name)
	}
	if err := media.Check(a.p.info.Name+": bytes", min(l.Bytes, l.Decoded), h.Size); err != nil {
		return modality.Cost{}, err
	}
	ctx, cancel := l.Context(ctx)
	defer cancel()
	q := request{Op: "plan", Name: filepath.Base(h.Name), MediaType: h.MediaType, Size: h.Size, Options: a.options, Bytes: int64(len(h.Head))}
	r, _, err := a.p.ask(ctx, q, bytes.NewReader(h.Head), 0)
	if err != nil {
		return modality.Cost{}, err
	}
	c, err := a.cost(r, h.MediaType, max(h.Size, 0), l)
	if err == nil {
		a.p.worked()
	}
	return c, err
}

// cost checks the shape that the program gives.
func (a *adapter) cost(r answer, mediaType string, size int64, l modality.Limits) (modality.Cost, error) {
	name := a.p.info.Name
	if r.Rows < 1 || r.Channels < 1 || a.p.info.Channels != 0 && r.Channels != a.p.info.Channels {
		return modality.Cost{}, a.p.nonsense("%d rows of %d channels; its info says %d channels", r.Rows, r.Channels, a.p.info.Channels)
	}
	if err := media.Check(name+": rows", l.Rows, int64(r.Rows)); err != nil {
		return modality.Cost{}, err
	}
	if err := media.Check(name+": channels", 1<<20, int64(r.Channels)); err != nil {
		return modality.Cost{}, err
	}
	if need := 4 * float64(r.Rows) * float64(r.Channels); need > float64(l.Decoded) && !r.Estimated {
		return modality.Cost{}, media.Exceeds(name+": bytes of rows", float64(l.Decoded), need)
	}
	if len(a.p.info.MediaTypes) > 0 && !slices.Contains(a.p.info.MediaTypes, mediaType) {
		mediaType = a.p.info.MediaTypes[0]
	}
	decoded := min(float64(l.Decoded), float64(size)+8*float64(r.Rows)*float64(r.Channels))
	return modality.Cost{Modality: name, MediaType: mediaType, Rows: r.Rows, RowChannels: r.Channels,
		DecodedBytes: int64(decoded), Estimated: r.Estimated, Notes: r.Notes}, nil
}

// Adapt gives the program the whole medium and takes its rows.
func (a *adapter) Adapt(ctx context.Context, in modality.Input) (*modality.Array, error) {
	name := a.p.info.Name
	l := in.Limits.WithDefaults()
	if in.Parts != nil {
		return nil, media.Errorf(media.Unsupported, "%s: inputs of several parts", name)
	}
	ctx, cancel := l.Context(ctx)
	defer cancel()
	in, done, err := media.Spool(ctx, in)
	if err != nil {
		return nil, err
	}
	defer done()
	if in.Size == 0 {
		return nil, media.Errorf(media.Empty, "%s: no bytes", name)
	}
	if err := media.Check(name+": bytes", min(l.Bytes, l.Decoded), in.Size); err != nil {
		return nil, err
	}
	q := request{Op: "adapt", Name: filepath.Base(in.Name), MediaType: in.MediaType, Size: in.Size, Options: a.options, Bytes: in.Size}
	r, raw, err := a.p.ask(ctx, q, media.NewReader(ctx, in.Reader(), in.Size), l.Decoded)
	if err != nil {
		return nil, err
	}
	r.Estimated = false
	cost, err := a.cost(r, in.MediaType, in.Size, l)
	if err != nil {
		return nil, err
	}
	if want := 4 * int64(r.Rows) * int64(r.Channels); int64(len(raw)) != want {
		return nil, a.p.nonsense("%d bytes of rows, %d×%d float32 are %d", len(raw), r.Rows, r.Channels, want)
	}
	rows := modality.Values{Data: make([]float32, len(raw)/4), C: r.Channels}
	for i := range rows.Data {
		v := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		if v-v != 0 {
			return nil, a.p.nonsense("row %d channel %d is %v, not a finite number", i/r.Channels, i%r.Channels, v)
		}
		rows.Data[i] = v
	}
	a.p.worked()
	return &modality.Array{Content: rows, Notes: r.Notes, Cost: cost}, nil
}

// errorf is an error of the program itself, not of the medium.
func (p *Plugin) errorf(format string, args ...any) error {
	name := p.info.Name
	if name == "" {
		name = filepath.Base(p.command[0])
	}
	return media.Errorf(media.PluginFailed, "plug-in %s: %s", name, fmt.Sprintf(format, args...))
}

// ask sends one request with the bytes of body and returns the answer with its bytes, at most
// most of them. The process is killed when ctx ends first.
func (p *Plugin) ask(ctx context.Context, q request, body io.Reader, most int64) (answer, []byte, error) {
	select {
	case p.turns <- struct{}{}:
		defer func() { <-p.turns }()
	case <-ctx.Done():
		return answer{}, nil, media.Wrap(ctx.Err(), media.TimedOut, fmt.Sprintf("plug-in %s: all its %d processes are at work", p.info.Name, cap(p.turns)))
	}
	c, err := p.take()
	if err != nil {
		return answer{}, nil, err
	}
	keep := context.AfterFunc(ctx, c.kill)
	a, raw, err := c.ask(q, body, most)
	ended := !keep()
	switch {
	case err == nil && !ended:
		p.give(c)
	case ctx.Err() != nil:
		c.stop()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			p.failed() // an overrun is the program's; that the caller left is not
		}
		return answer{}, nil, media.Wrap(ctx.Err(), media.TimedOut, "plug-in "+p.info.Name)
	default:
		c.stop()
		p.failed()
		if last := c.stderr.String(); last != "" {
			return answer{}, nil, p.errorf("%v; it says: %s", err, last)
		}
		return answer{}, nil, p.errorf("%v", err)
	}
	if a.Error == nil {
		return a, raw, nil
	}
	if !slices.Contains(media.Codes(), a.Error.Code) {
		return answer{}, nil, p.nonsense("unknown code %q: %s", a.Error.Code, a.Error.Detail)
	}
	p.worked()
	return answer{}, nil, media.Errorf(a.Error.Code, "%s", a.Error.Detail)
}

// take returns an idle process or starts one.
func (p *Plugin) take() (*process, error) {
	if c, err := p.takeIdle(); c != nil || err != nil {
		return c, err
	}
	c, err := start(p.command)
	if err != nil {
		return nil, p.errorf("%v", err)
	}
	return c, nil
}

// takeIdle returns an idle process, nil when there is none.
func (p *Plugin) takeIdle() (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, p.errorf("closed")
	}
	if wait := time.Until(p.rest); p.failures > 1 && wait > 0 {
		return nil, p.errorf("failed %d times in a row; tried again in %v", p.failures, wait.Round(time.Millisecond))
	}
	n := len(p.idle)
	if n == 0 {
		return nil, nil
	}
	c := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return c, nil
}

// give takes a process back after an answer.
func (p *Plugin) give(c *process) {
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < maxIdle
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.stop()
	}
}

// worked ends a row of failures.
func (p *Plugin) worked() {
	p.mu.Lock()
	p.failures = 0
	p.mu.Unlock()
}

// nonsense is errorf for an answer that contradicts itself or the plug-in's info: a failure.
func (p *Plugin) nonsense(format string, args ...any) error {
	p.failed()
	return p.errorf(format, args...)
}

// failed counts a failure. The first is forgiven at once: a process may have died while idle.
func (p *Plugin) failed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failures++; p.failures > 1 {
		p.rest = time.Now().Add(min(longRest, firstRest<<min(p.failures-2, 6)))
	}
}

// passed is what of the environment a plug-in gets.
var passed = []string{"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "SYSTEMROOT", "TEMP"}

func start(command []string) (*process, error) {
	c := &process{cmd: exec.Command(command[0], command[1:]...), stderr: new(tail)}
	c.cmd.Env = []string{}
	for _, k := range passed {
		if v, ok := os.LookupEnv(k); ok {
			c.cmd.Env = append(c.cmd.Env, k+"="+v)
		}
	}
	c.cmd.Stderr = c.stderr
	c.cmd.WaitDelay = time.Second // a grandchild that holds standard error does not hold us
	alone(c.cmd)
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	c.kill = sync.OnceFunc(func() {
		killAll(c.cmd.Process)
		c.in.Close() // a grandchild that lives on would hold the pipes open
		out.Close()
	})
	return c, c.cmd.Start()
}

// ask is one exchange. A program may refuse before it has read all of the body, so what breaks
// the sending counts only when no answer comes.
func (c *process) ask(q request, body io.Reader, most int64) (answer, []byte, error) {
	sent := make(chan error, 1)
	go func() { // ends when the body is sent or the process is gone
		err := writeFrame(c.in, q)
		if err == nil && body != nil {
			_, err = io.CopyN(c.in, body, q.Bytes)
		}
		sent <- err
	}()
	var a answer
	var raw []byte
	err := readFrame(c.out, &a)
	if err == nil {
		switch {
		case a.Bytes < 0 || a.Bytes > most:
			err = fmt.Errorf("an answer of %d bytes, at most %d are taken", a.Bytes, most)
		case a.Bytes > 0:
			var b bytes.Buffer // grows with what comes, not with what is announced
			_, err = io.CopyN(&b, c.out, a.Bytes)
			raw = b.Bytes()
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ended before its answer did")
	}
	if err != nil {
		c.kill() // so that the sender ends too
	}
	if broken := <-sent; err == nil && broken != nil {
		err = broken
	}
	return a, raw, err
}

// stop kills the process and waits for its end.
func (c *process) stop() {
	c.kill()
	c.cmd.Wait() //nolint:errcheck // how a killed process ended tells nothing
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - stderrTail; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// String is the last line that says something.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
