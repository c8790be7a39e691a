package media_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mmserve/mmserve/modality/media"
)

func TestErrors(t *testing.T) {
	cause := errors.New("why")
	err := fmt.Errorf("part 3: %w", &media.Error{Code: media.TooLarge, Detail: "audio: seconds", Limit: 10, Actual: 12.5, Err: cause})
	if !errors.Is(err, media.TooLarge) || errors.Is(err, media.Empty) || !errors.Is(err, cause) || media.CodeOf(err) != media.TooLarge {
		t.Errorf("%v does not carry its code and cause", err)
	}
	if got := err.Error(); got != "part 3: audio: seconds: limit 10, actual 12.5: why" {
		t.Errorf("message %q", got)
	}
	e := media.AsError(err)
	if e.Detail != "part 3: audio: seconds" || e.Limit != 10 || e.Actual != 12.5 {
		t.Errorf("flattened %+v", e)
	}
	text, _ := json.Marshal(e)
	if string(text) != `{"code":"too_large","detail":"part 3: audio: seconds: why","limit":10,"actual":12.5}` {
		t.Errorf("JSON %s", text)
	}
	if media.AsError(cause).Code != media.Unreadable || media.CodeOf(cause) != "" || media.Wrap(nil, media.Empty, "") != nil {
		t.Error("an error without a code")
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		err  error
		want media.Code
	}{
		{errors.New("bad"), media.Malformed},
		{io.EOF, media.Truncated},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), media.Truncated},
		{context.Canceled, media.Canceled},
		{context.DeadlineExceeded, media.TimedOut},
		{media.Errorf(media.Empty, "nothing"), media.Empty},
	} {
		if got := media.CodeOf(media.Wrap(c.err, media.Malformed, "x")); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
	seen := map[media.Code]bool{}
	for _, c := range media.Codes() {
		if seen[c] || c.Error() == "" {
			t.Errorf("code %q twice or empty", c)
		}
		seen[c] = true
	}
}

func TestPictureLimits(t *testing.T) {
	var l media.Limits
	for _, c := range []struct {
		w, h, per int64
		want      media.Code
	}{
		{4000, 3000, 7, ""},
		{0, 5, 4, media.Empty},
		{-1, 5, 4, media.Empty},
		{40000, 10, 4, media.TooLarge},            // side
		{20000, 1, 4, media.TooLarge},             // aspect
		{9000, 9000, 4, media.TooLarge},           // pixels
		{8000, 8000, 12, media.TooLarge},          // bytes
		{1 << 40, 1 << 40, 4, media.TooLarge},     // overflow
		{1<<62 - 1, 1<<62 - 1, 8, media.TooLarge}, // overflow
	} {
		if got := media.CodeOf(l.Picture("x", c.w, c.h, c.per)); got != c.want {
			t.Errorf("%d×%d: %q, want %q", c.w, c.h, got, c.want)
		}
	}
	none := media.Limits{Pixels: -1, Side: -1, Aspect: -1, Decoded: -1}
	if err := none.Picture("x", 1<<20, 1<<20, 4); err != nil {
		t.Errorf("without limits: %v", err)
	}
}

func TestReaderBounds(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 10000)
	got, err := io.ReadAll(media.NewReader(t.Context(), bytes.NewReader(data), 10000))
	if err != nil || len(got) != 10000 {
		t.Errorf("exactly the limit: %d, %v", len(got), err)
	}
	got, err = io.ReadAll(media.NewReader(t.Context(), bytes.NewReader(data), 9999))
	if media.CodeOf(err) != media.TooLarge || len(got) != 9999 {
		t.Errorf("one above: %d, %v", len(got), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := media.NewReader(ctx, bytes.NewReader(data), 10000)
	if _, err := io.CopyN(io.Discard, r, 100); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancelling: %v", err)
	}
	if _, err := media.NewReaderAt(ctx, bytes.NewReader(data)).ReadAt(make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancelling: %v", err)
	}
}

func TestHeader(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10000)
	for _, in := range []media.Input{media.Bytes("A.TXT", data), media.Stream("A.TXT", iotest.OneByteReader(bytes.NewReader(data)))} {
		h, err := in.Header()
		if err != nil || len(h.Head) != media.HeadBytes || h.Ext() != ".txt" || !h.Has(3, "345") || h.Has(media.HeadBytes-1, "xx") {
			t.Errorf("header %d bytes, %v", len(h.Head), err)
		}
		rest, err := io.ReadAll(in.Reader())
		if err != nil || !bytes.Equal(rest, data) {
			t.Errorf("the header took %d bytes", len(data)-len(rest))
		}
	}
	if _, err := media.Stream("", iotest.ErrReader(errors.New("gone"))).Header(); media.CodeOf(err) != media.Unreadable {
		t.Errorf("broken stream: %v", err)
	}
	in := media.Bytes("", data)
	in.Limits.Bytes = 5
	if _, err := in.Header(); media.CodeOf(err) != media.TooLarge {
		t.Errorf("limit: %v", err)
	}
}

func TestSpool(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	for _, memory := range []int64{1 << 20, 100} { // kept in memory, then in a file
		in := media.Stream("x", bytes.NewReader(data))
		in.Limits.Memory = memory
		out, done, err := media.Spool(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(out.Reader())
		if err != nil || !bytes.Equal(got, data) || !out.Replayable() || out.Size != int64(len(data)) {
			t.Errorf("memory %d: %d bytes, %v", memory, len(got), err)
		}
		done()
	}
	in := media.Stream("x", bytes.NewReader(data))
	in.Limits = media.Limits{Memory: 100, Bytes: 200}
	if _, _, err := media.Spool(t.Context(), in); media.CodeOf(err) != media.TooLarge {
		t.Errorf("too long: %v", err)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := media.File(dir); media.CodeOf(err) != media.Empty {
		t.Errorf("empty directory: %v", err)
	}
	for _, n := range []string{"b.txt", "a.txt", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in, c, err := media.File(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h, err := in.Header()
	if err != nil || len(h.Parts) != 2 || string(h.Parts[0].Head) != "a.txt" {
		t.Errorf("parts %v, %v", h.Parts, err)
	}
	in.Limits.Parts = 1
	if _, err := in.Header(); media.CodeOf(err) != media.TooLarge {
		t.Errorf("parts: %v", err)
	}
	if _, _, err := media.File(filepath.Join(dir, "none")); media.CodeOf(err) != media.Unreadable {
		t.Errorf("missing: %v", err)
	}
}

func TestTimeLimit(t *testing.T) {
	ctx, cancel := media.Limits{Time: time.Nanosecond}.Context(t.Context())
	defer cancel()
	<-ctx.Done()
	_, err := media.NewReader(ctx, bytes.NewReader([]byte("x")), 1).Read(make([]byte, 1))
	if media.CodeOf(media.Wrap(err, media.Malformed, "x")) != media.TimedOut {
		t.Errorf("got %v", err)
	}
}
