package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// cloud is a point cloud as shapes3d stores it: three values a point, x y z each.
type cloud struct {
	xyz     []byte // int16, little-endian, over 32767
	normals []byte // int8 over 127; nil for none
	rgb     []byte // 0..255; nil for none
}

func (c *cloud) points() int { return len(c.xyz) / 6 }

// pick keeps some points.
func (c *cloud) pick(points []int) *cloud {
	out := &cloud{}
	for _, i := range points {
		out.xyz = append(out.xyz, c.xyz[6*i:6*i+6]...)
		if c.normals != nil {
			out.normals = append(out.normals, c.normals[3*i:3*i+3]...)
		}
		if c.rgb != nil {
			out.rgb = append(out.rgb, c.rgb[3*i:3*i+3]...)
		}
	}
	return out
}

// ply writes the cloud as a binary PLY file.
func (c *cloud) ply() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "ply\nformat binary_little_endian 1.0\nelement vertex %d\n", c.points())
	names := []string{"x", "y", "z"}
	if c.normals != nil {
		names = append(names, "nx", "ny", "nz")
	}
	for _, p := range names {
		fmt.Fprintf(&b, "property float %s\n", p)
	}
	if c.rgb != nil {
		b.WriteString("property uchar red\nproperty uchar green\nproperty uchar blue\n")
	}
	b.WriteString("end_header\n")
	le := binary.LittleEndian
	for i := range c.points() {
		for k := 3 * i; k < 3*i+3; k++ {
			v := float32(float64(int16(le.Uint16(c.xyz[2*k:]))) / 32767)
			b.Write(le.AppendUint32(nil, math.Float32bits(v)))
		}
		if c.normals != nil {
			for _, v := range c.normals[3*i : 3*i+3] {
				b.Write(le.AppendUint32(nil, math.Float32bits(float32(float64(int8(v))/127))))
			}
		}
		if c.rgb != nil {
			b.Write(c.rgb[3*i : 3*i+3])
		}
	}
	return b.Bytes()
}

// shapeRow is a line of shapes3d/index.jsonl.
type shapeRow struct {
	I       *int   `json:"i"`
	Class   string `json:"cls"`
	Caption string `json:"caption"`
	Split   string `json:"split"`
}

// shapePoints is the number of points of a cloud where meta.json does not tell.
const shapePoints = 1024

// readShapes reads the clouds of shapes3d/; normals and colours may be missing.
func readShapes(dir, split string) ([]sample, error) {
	points := shapePoints
	if text, err := os.ReadFile(filepath.Join(dir, "meta.json")); err == nil {
		var meta struct {
			Points int `json:"points"`
		}
		if err := json.Unmarshal(text, &meta); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "meta.json"), err)
		}
		if meta.Points > 0 {
			points = meta.Points
		}
	}
	xyz, err := readClouds(dir, "xyz.i16le.gz", 6*points)
	if err != nil {
		return nil, err
	}
	normals, err := readClouds(dir, "normals.i8.gz", 3*points)
	if err != nil && !missing(err) {
		return nil, err
	}
	rgb, err := readClouds(dir, "rgb.u8.gz", 3*points)
	if err != nil && !missing(err) {
		return nil, err
	}
	n := len(xyz)
	if normals != nil && len(normals) != n || rgb != nil && len(rgb) != n {
		return nil, fmt.Errorf("%s: %d clouds of points, %d of normals, %d of colours", dir, n, len(normals), len(rgb))
	}
	var out []sample
	err = jsonLines(filepath.Join(dir, "index.jsonl"), func(line int, r shapeRow) error {
		i := line - 1
		if r.I != nil {
			i = *r.I
		}
		if i < 0 || i >= n {
			return fmt.Errorf("cloud %d, and the arrays hold %d", i, n)
		}
		if r.Class == "" {
			return errors.New(`no "cls"`)
		}
		if !wanted(r.Split, split) {
			return nil
		}
		c := &cloud{xyz: xyz[i]}
		if normals != nil {
			c.normals = normals[i]
		}
		if rgb != nil {
			c.rgb = rgb[i]
		}
		out = append(out, sample{name: strconv.Itoa(i), cloud: c, label: r.Class, caption: r.Caption})
		return nil
	})
	return out, err
}

// readClouds reads a gzip file of clouds of so many bytes each.
func readClouds(dir, name string, size int) ([][]byte, error) {
	file := filepath.Join(dir, name)
	r, done, err := openGzip(file)
	if err != nil {
		return nil, err
	}
	defer done()
	b, err := readAtMost(r)
	if err == nil && len(b)%size != 0 {
		err = fmt.Errorf("%d bytes, no whole number of clouds of %d", len(b), size)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return slices.Collect(slices.Chunk(b, size)), nil
}
