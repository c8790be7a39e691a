package api

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/pipeline"
)

// metrics counts what the server does. Every label comes from a closed list: routes, codes,
// loaded models, registered modalities.
type metrics struct {
	handler  http.Handler
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	problems *prometheus.CounterVec
	items    *prometheus.CounterVec
	flops    *prometheus.CounterVec
	rows     *prometheus.CounterVec
	known    []string
}

func newMetrics(s *Server) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "mmserve", Name: name, Help: help}, labels)
	}
	m := &metrics{
		requests: counter("requests_total", "Requests answered.", "route", "method", "status"),
		problems: counter("problems_total", "Requests and items that failed, by problem code.", "code"),
		items:    counter("items_total", "Items run.", "model", "modality"),
		flops:    counter("encode_flops_total", "Planned floating-point operations of items run.", "model", "modality"),
		rows:     counter("rows_total", "Rows of byte arrays read by encoders.", "model", "modality"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "mmserve", Name: "request_seconds", Help: "Time from request to answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"route"}),
		known: append(modality.Names(), "latents"),
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "mmserve", Name: name, Help: help}, f)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.requests, m.seconds, m.problems, m.items, m.flops, m.rows,
		gauge("queue_admitted_flops", "Cost admitted: running and waiting.", func() float64 { return s.queue.Load().Admitted }),
		gauge("queue_running", "Passes running.", func() float64 { return float64(s.queue.Load().Running) }),
		gauge("queue_waiting", "Items waiting for a turn.", func() float64 { return float64(s.queue.Load().Waiting) }),
		gauge("queue_drain_flops_per_second", "Measured drain rate.", func() float64 { return s.queue.Load().Rate }),
	)
	reg.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return m
}

func (m *metrics) request(route, method string, status int, took time.Duration) {
	if !slices.Contains([]string{"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"}, method) {
		method = "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) problem(code string) { m.problems.WithLabelValues(code).Inc() }

// work counts an item that was admitted. The model's name is one of the store's.
func (m *metrics) work(model string, p pipeline.Plan) {
	kind := p.Modality
	if !slices.Contains(m.known, kind) {
		kind = "other"
	}
	m.items.WithLabelValues(model, kind).Inc()
	m.flops.WithLabelValues(model, kind).Add(p.FLOPs)
	m.rows.WithLabelValues(model, kind).Add(float64(p.Rows))
}

// serveMetrics answers GET /metrics in Prometheus's text format.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) error {
	s.metrics.handler.ServeHTTP(w, r)
	return nil
}
