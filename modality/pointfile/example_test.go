package pointfile_test

import (
	"fmt"
	"strings"

	"github.com/mmserve/mmserve/modality/pointfile"
)

func ExampleOpen() {
	const file = "OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0.5\n"
	r, err := pointfile.Open(strings.NewReader(file), pointfile.Options{Size: int64(len(file))})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(r.Format, r.Points, "points")
	block := make([]pointfile.Point, 1024)
	for n := 0; err == nil; {
		n, err = r.Read(block)
		for _, p := range block[:n] {
			fmt.Println(p.XYZ)
		}
	}
	// Output:
	// off 3 points
	// [0 0 0]
	// [1 0 0]
	// [0 1 0.5]
}
