package external

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// serveRows is how many rows Serve writes at a time.
const serveRows = 256

// Serve answers requests from in on out with the adapters that open makes, until in ends: the
// main loop of a plug-in written in Go, called with os.Stdin and os.Stdout. Positions are part of
// the rows it sends. It returns nil at the end of the input, else what broke the connection.
func Serve(ctx context.Context, open modality.Open, in io.Reader, out io.Writer) error {
	r, w := bufio.NewReader(in), bufio.NewWriter(out)
	for {
		var q request
		if err := readFrame(r, &q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if q.Bytes < 0 {
			return fmt.Errorf("external: a request of %d bytes", q.Bytes)
		}
		var data bytes.Buffer // grows with what comes, not with what is announced
		if _, err := io.CopyN(&data, r, q.Bytes); err != nil {
			return err
		}
		if err := serveOne(ctx, open, q, data.Bytes(), w); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
}

// serveOne answers one request. Its error is of the connection; refusals are answers.
func serveOne(ctx context.Context, open modality.Open, q request, data []byte, w io.Writer) error {
	refuse := func(err error) error {
		code := media.CodeOf(err)
		if code == "" {
			code = media.Malformed
		}
		return writeFrame(w, answer{Error: &fault{code, err.Error()}})
	}
	a, err := open(q.Options)
	if err != nil {
		return refuse(err)
	}
	switch q.Op {
	case "info":
		info := a.Info()
		return writeFrame(w, answer{Info: &info})
	case "plan":
		c, err := a.Plan(ctx, media.Header{Name: q.Name, MediaType: q.MediaType, Size: q.Size, Head: data})
		if err != nil {
			return refuse(err)
		}
		return writeFrame(w, answer{Rows: c.Rows, Channels: c.RowChannels, Estimated: c.Estimated, Notes: c.Notes})
	case "adapt":
		in := media.Bytes(q.Name, data)
		in.MediaType = q.MediaType
		array, err := a.Adapt(ctx, in)
		if err != nil {
			return refuse(err)
		}
		defer array.Close()
		return sendRows(w, array, refuse)
	}
	return refuse(media.Errorf(media.Unsupported, "no operation %q", q.Op))
}

// sendRows reads all rows before the first byte leaves, so that a fault in the last row is still
// a refusal.
func sendRows(w io.Writer, array *modality.Array, refuse func(error) error) error {
	m, c := array.Dims()
	b := make([]byte, 0, 4*m*c)
	x := tensor.New(serveRows, c)
	for from := 0; from < m; from += serveRows {
		n := min(serveRows, m-from)
		block := tensor.Tensor{Shape: []int{n, c}, Data: x.Data[:n*c]}
		if err := array.Read(block, from, from+n); err != nil {
			return refuse(err)
		}
		for _, v := range block.Data {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
	}
	if err := writeFrame(w, answer{Rows: m, Channels: c, Notes: array.Notes, Bytes: int64(len(b))}); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}
