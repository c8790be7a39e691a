package modality

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/pointfile"
)

// PointCloudOptions are the options of the pointcloud adapter. A row is
// [features…, x, y, z, sines…, cosines…]: the coordinates are the raw part of their own
// Fourier code.
type PointCloudOptions struct {
	Preset     string   `json:"preset"`     // "" or "modelnet40": options to start from
	Points     int      `json:"points"`     // sample down to this many points; 0: all
	Sampling   string   `json:"sampling"`   // "random", "farthest" or "first"
	Seed       uint64   `json:"seed"`       // of random sampling and of the first farthest point
	Scaling    string   `json:"scaling"`    // "none", "center", "unit_sphere" or "unit_cube"
	Features   []string `json:"features"`   // "normals", "color", "intensity", in the order given
	Position   string   `json:"position"`   // "fourier" or "none" (coordinates alone)
	Bands      int      `json:"bands"`      // Fourier bands
	Resolution float32  `json:"resolution"` // Fourier maximum resolution
}

var pointSchema = json.RawMessage(`{
  "type": "object", "additionalProperties": false,
  "properties": {
    "preset": {"enum": ["", "modelnet40"], "default": "", "description": "modelnet40: 2048 random points in the unit sphere, 64 bands, maximum resolution 1120; other options given beside it win"},
    "points": {"type": "integer", "minimum": 0, "maximum": 4194304, "default": 0, "description": "sample down to this many points; 0 for all; a smaller cloud keeps the points it has"},
    "sampling": {"enum": ["random", "farthest", "first"], "default": "random", "description": "random keeps the file's order, farthest starts at a random point and orders by distance"},
    "seed": {"type": "integer", "minimum": 0, "default": 0},
    "scaling": {"enum": ["none", "center", "unit_sphere", "unit_cube"], "default": "unit_cube", "description": "center: mean to 0; unit_sphere: mean to 0, farthest point to distance 1; unit_cube: box centred, its longest side from -1 to 1"},
    "features": {"type": "array", "uniqueItems": true, "items": {"enum": ["normals", "color", "intensity"]}, "default": [], "description": "channels in front of the coordinates, 0 where a file has none"},
    "position": {"enum": ["fourier", "none"], "default": "fourier"},
    "bands": {"type": "integer", "minimum": 1, "maximum": 1024, "default": 64},
    "resolution": {"type": "number", "minimum": 2, "default": 1120, "description": "maximum resolution of the Fourier code of the coordinates"}
  }
}`)

// pointFeatures has the channels of each feature.
var pointFeatures = map[string]int{"normals": 3, "color": 3, "intensity": 1}

// pointTypes maps media types to the formats of package pointfile.
var pointTypes = []struct{ mediaType, format string }{
	{"application/x-ply", "ply"}, {"application/ply", "ply"}, {"model/ply", "ply"}, {"model/x-ply", "ply"},
	{"application/x-pcd", "pcd"}, {"model/x-pcd", "pcd"},
	{"application/vnd.las", "las"}, {"application/x-las", "las"},
	{"model/x-off", "off"}, {"application/x-off", "off"},
	{"model/obj", "obj"}, {"application/x-npy", "npy"},
	{"text/x-xyz", "xyz"}, {"text/csv", "xyz"},
	{"application/json", "json"}, {"application/vnd.laszip", "las"}, {"model/gltf-binary", "glb"},
}

// pointAdapter reads point clouds.
type pointAdapter struct {
	o       PointCloudOptions
	fourier Fourier
	width   int   // channels of the features
	keep    int64 // points kept rather than read again; 0: heldPoints
}

// OpenPointCloud opens the pointcloud adapter.
func OpenPointCloud(options json.RawMessage) (Adapter, error) {
	o := PointCloudOptions{Sampling: "random", Scaling: "unit_cube", Position: "fourier", Bands: 64, Resolution: 1120}
	given := o
	if err := Options("pointcloud", options, &given); err != nil {
		return nil, err
	}
	switch given.Preset {
	case "":
	case "modelnet40":
		o.Points, o.Scaling = 2048, "unit_sphere"
	default:
		return nil, BadOption("pointcloud", "preset %q: want modelnet40", given.Preset)
	}
	if err := Options("pointcloud", options, &o); err != nil {
		return nil, err
	}
	a := &pointAdapter{o: o}
	if err := a.check(); err != nil {
		return nil, err
	}
	a.fourier = NewFourier(o.Bands, o.Resolution, o.Resolution, o.Resolution)
	return a, nil
}

func (a *pointAdapter) check() error {
	o := &a.o
	for i, f := range o.Features {
		n, ok := pointFeatures[f]
		if !ok || slices.Contains(o.Features[:i], f) {
			return BadOption("pointcloud", "features %q: want normals, color and intensity, each once", o.Features)
		}
		a.width += n
	}
	switch {
	case o.Points < 0 || o.Points > 4<<20:
		return BadOption("pointcloud", "points %d: want 0 to %d", o.Points, 4<<20)
	case !slices.Contains([]string{"random", "farthest", "first"}, o.Sampling):
		return BadOption("pointcloud", "sampling %q: want random, farthest or first", o.Sampling)
	case !slices.Contains([]string{"none", "center", "unit_sphere", "unit_cube"}, o.Scaling):
		return BadOption("pointcloud", "scaling %q: want none, center, unit_sphere or unit_cube", o.Scaling)
	case o.Position != "fourier" && o.Position != "none":
		return BadOption("pointcloud", "position %q: want fourier or none", o.Position)
	case o.Bands < 1 || o.Bands > 1024:
		return BadOption("pointcloud", "bands %d: want 1 to 1024", o.Bands)
	case !(o.Resolution >= 2 && o.Resolution <= 1e9):
		return BadOption("pointcloud", "resolution %g: want 2 to 1e9", o.Resolution)
	}
	return nil
}

// channels is C of the rows.
func (a *pointAdapter) channels() int {
	if a.o.Position == "none" {
		return a.width + 3
	}
	return a.width + a.fourier.Channels()
}

// Info implements Adapter. All channels are content, as the positions come from the file.
func (a *pointAdapter) Info() Info {
	info := Info{
		Name: "pointcloud", Doc: "point clouds: PLY, PCD, LAS, OFF, OBJ vertices, NPY and tables of numbers",
		Extensions: []string{".ply", ".pcd", ".las", ".laz", ".off", ".obj", ".xyz", ".pts", ".asc", ".csv", ".tsv", ".npy", ".npz", ".glb"},
		Magic: []Magic{
			{MediaType: "application/x-ply", Bytes: []byte("ply\n")},
			{MediaType: "application/x-ply", Bytes: []byte("ply\r")},
			{MediaType: "application/vnd.las", Bytes: []byte("LASF")},
			{MediaType: "application/x-npy", Bytes: []byte("\x93NUMPY")},
			{MediaType: "model/gltf-binary", Bytes: []byte("glTF")},
		},
		Options: pointSchema, Channels: a.channels(), Content: a.channels(), Position: a.o.Position,
		Streams: a.o.Points > 0 && a.o.Sampling != "farthest" || a.o.Points == 0 && a.o.Scaling == "none",
	}
	for _, t := range pointTypes {
		if t.format != "json" { // most JSON is something else
			info.MediaTypes = append(info.MediaTypes, t.mediaType)
		}
	}
	return info
}

// Sniff implements Sniffer for the formats whose signatures are words of text.
func (a *pointAdapter) Sniff(h Header) (string, float64) {
	switch format := pointfile.Sniff(h.Head); format {
	case "":
		return "", 0
	case "xyz", "json":
		return typeOfPoints(format), 0.7
	default:
		return typeOfPoints(format), 1
	}
}

func typeOfPoints(format string) string {
	for _, t := range pointTypes {
		if t.format == format {
			return t.mediaType
		}
	}
	return ""
}

// formatHint is what a name or a declared type says about the format.
func formatHint(name, mediaType string) string {
	if f := pointfile.FormatOf(name); f != "" {
		return f
	}
	for _, t := range pointTypes {
		if t.mediaType == mediaType {
			return t.format
		}
	}
	return ""
}

// Plan implements Adapter. Rows are exact when the header counts points that cannot be NaN.
func (a *pointAdapter) Plan(ctx context.Context, h Header) (Cost, error) {
	if err := ctx.Err(); err != nil {
		return Cost{}, media.Wrap(err, media.Canceled, "pointcloud: plan")
	}
	l := h.Limits.WithDefaults()
	r, err := pointfile.Open(h.Reader(), pointfile.Options{Size: h.Size, Format: formatHint(h.Name, h.MediaType), Limits: l})
	if err != nil {
		return Cost{}, err
	}
	c := Cost{Modality: "pointcloud", MediaType: typeOfPoints(r.Format), RowChannels: a.channels(), Notes: a.notes(r.Header)}
	points := r.Points
	switch {
	case points >= 0:
		c.Points = points
	case h.Size >= 0 && h.Size <= int64(len(h.Head)):
		if points, err = countPoints(r); err != nil {
			return c, err
		}
		c.Points = points
	case h.Size >= 0:
		points = min(h.Size/6+1, l.Points) // "0 0 0\n" is the shortest row
	default:
		points = l.Points
	}
	c.Estimated = !r.AlwaysFinite || points != c.Points
	if c.Rows, err = a.rows(points, l); err != nil && !c.Estimated {
		return c, err
	}
	c.DecodedBytes, c.Decoding = a.memory(points, r.Header), decoding(points, perPoint)
	if a.o.Points > 0 && a.o.Sampling == "farthest" && c.Points > 0 {
		if err := farthestLimits(c.Points, a.o.Points, l); err != nil {
			return c, err
		}
	}
	return c, nil
}

// rows is the number of rows that n points become.
func (a *pointAdapter) rows(n int64, l Limits) (int, error) {
	if a.o.Points > 0 {
		n = min(n, int64(a.o.Points))
	}
	return int(min(n, l.Rows)), media.Check("pointcloud: rows", l.Rows, n)
}

// memory is the most that reading n points holds.
func (a *pointAdapter) memory(n int64, h pointfile.Header) int64 {
	held := min(n, heldPoints)
	switch {
	case a.o.Points > 0 && a.o.Sampling == "farthest":
		held = n
	case a.o.Points > 0:
		held = min(n, int64(a.o.Points))
	}
	return h.Held + held*pointBytes + (pointBlock*pointBytes + 128<<10)
}

// notes says what is done to a cloud, for people.
func (a *pointAdapter) notes(h pointfile.Header) []string {
	notes := []string{fmt.Sprintf("%s %s", h.Format, h.Encoding)}
	notes = append(notes, h.Notes...)
	have := map[string]bool{"normals": h.HasNormals, "color": h.HasColor, "intensity": h.HasIntensity}
	for _, f := range []string{"normals", "color", "intensity"} {
		switch asked := slices.Contains(a.o.Features, f); {
		case asked && !have[f]:
			notes = append(notes, f+" asked for and not in the file: zeros")
		case !asked && have[f]:
			notes = append(notes, f+" in the file and not asked for")
		}
	}
	return notes
}

func countPoints(r *pointfile.Reader) (int64, error) {
	n := int64(0)
	return n, eachPoint(r, func([]pointfile.Point) {}, &n)
}
