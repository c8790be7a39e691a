// Package custommodality adds a medium of one's own: recordings of an inertial measurement
// unit, a table with the header t,ax,ay,az,gx,gy,gz (seconds, m/s², rad/s). A row of the byte
// array is one sample: its six values, then a Fourier code of its place in the recording.
//
// A program that imports this package for its side effect reads such files like any other
// medium; examples/custommain is one.
package custommodality

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"strconv"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
)

func init() { modality.Register("imu", Open) }

const header = "t,ax,ay,az,gx,gy,gz"

type adapter struct{ code modality.Fourier }

// Open makes the adapter. It has no options.
func Open(options json.RawMessage) (modality.Adapter, error) {
	return &adapter{modality.NewFourier(32, 1024)}, modality.Options("imu", options, &struct{}{})
}

func (a *adapter) Info() modality.Info {
	return modality.Info{
		Name: "imu", Doc: "inertial measurements: a table of acceleration and angular velocity",
		MediaTypes: []string{"text/x-imu"}, Extensions: []string{".imu"},
		Magic:    []modality.Magic{{MediaType: "text/x-imu", Bytes: []byte(header)}},
		Options:  json.RawMessage(`{"type": "object", "additionalProperties": false}`),
		Channels: 6 + a.code.Channels(), Content: 6, Position: "fourier",
	}
}

// Plan bounds the rows by the size, as a table does not say how long it is: the shortest row
// is "0,0,0,0,0,0,0\n".
func (a *adapter) Plan(_ context.Context, h modality.Header) (modality.Cost, error) {
	l := h.Limits.WithDefaults()
	if !h.Has(0, header) {
		return modality.Cost{}, media.Errorf(media.Malformed, "imu: first line is not %s", header)
	}
	size := h.Size
	if size < 0 {
		size = l.Text
	}
	c := a.cost(int(size / 14))
	c.Estimated = true
	return c, media.Check("imu: bytes", l.Text, size)
}

func (a *adapter) cost(rows int) modality.Cost {
	return modality.Cost{Modality: "imu", MediaType: "text/x-imu", Rows: rows, RowChannels: 6 + a.code.Channels(), DecodedBytes: int64(rows) * 300}
}

func (a *adapter) Adapt(ctx context.Context, in modality.Input) (*modality.Array, error) {
	l := in.Limits.WithDefaults()
	table, err := csv.NewReader(media.NewReader(ctx, in.Reader(), l.Text)).ReadAll()
	if err != nil {
		return nil, media.Wrap(err, media.Malformed, "imu")
	}
	if len(table) < 2 || len(table[0]) != 7 {
		return nil, media.Errorf(media.Empty, "imu: no samples of seven columns")
	}
	rows := modality.Values{C: 6}
	for i, line := range table[1:] {
		for _, s := range line[1:] {
			v, err := strconv.ParseFloat(s, 32)
			if err != nil || v-v != 0 {
				return nil, media.Errorf(media.Malformed, "imu: sample %d: %q is not a finite number", i, s)
			}
			rows.Data = append(rows.Data, float32(v))
		}
	}
	n := len(table) - 1
	return &modality.Array{Content: rows, Position: modality.NewGrid(a.code, n), Cost: a.cost(n)}, media.Check("imu: rows", l.Rows, int64(n))
}
