// Package api serves models over HTTP: the native routes under /v1, OpenAI's embeddings and
// chat shapes, the Open Inference Protocol under /v2, and the operator's routes.
//
// A request goes through routes.go (one screen), the guards around every route (guard.go:
// request id, authentication, a place in the queue, recovery, body limits), the handler that
// parses it into pipeline items, the queue that admits each by its planned cost (queue.go), the
// memory it needs (memory.go), the model, and an encoder of the asked format (formats.go). While
// the queue is full, early.go refuses on the connection; unread.go cuts answers that nobody
// reads. Handlers return errors; errors.go holds the one table that turns them into status
// codes and bodies.
//
//	s := &api.Server{Store: store, Default: "default"}
//	http.ListenAndServe("127.0.0.1:8080", s.Handler())
//
// Only routes.go knows the router: handlers read parameters with r.PathValue.
package api
