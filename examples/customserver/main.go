// Command customserver serves a model directory with a medium of one's own compiled in: the one
// more import is all that makes the server know it.
//
//	go run ./examples/customserver --random testdata/native/sensor
//	curl --data-binary @walk.imu -H 'Content-Type: text/x-imu' localhost:8080/v1/predict
//
// It listens on loopback, without keys. For keys, TLS, reload and draining as mmserve has them,
// see the fields of api.Server and cmd/mmserve/serve.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/mmserve/mmserve/api"
	_ "github.com/mmserve/mmserve/examples/custommodality" // the one more import
	"github.com/mmserve/mmserve/pipeline"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	random := flag.Bool("random", false, "random weights instead of the directory's, to try the program")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: customserver [--addr ADDRESS] [--random] DIR")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *addr, server(flag.Arg(0), *random)); err != nil {
		fmt.Fprintln(os.Stderr, "customserver:", err)
		os.Exit(1)
	}
}

// server serves the model of a directory, which is loaded when it is first asked for.
func server(dir string, random bool) *api.Server {
	store := &pipeline.Store{}
	store.Add("sensor", func(ctx context.Context) (pipeline.Model, error) {
		return pipeline.Open(ctx, dir, pipeline.Options{Random: random})
	})
	return &api.Server{Store: store, Default: "sensor", Log: slog.Default()}
}

// run serves until ctx ends and requests in flight are answered.
func run(ctx context.Context, addr string, s *api.Server) error {
	go s.Watch(ctx) // what /readyz tells
	hs := &http.Server{Addr: addr, Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	drained := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		s.Drain()
		drained <- hs.Shutdown(context.Background())
	})
	if err := hs.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-drained
}
