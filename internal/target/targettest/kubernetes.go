package targettest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Namespace is where the objects of Kubernetes are that have one.
const Namespace = "a"

type object = map[string]any

// resource is a kind of object in the API.
type resource struct {
	version, kind string
	// made is the object of an address; nil if what there is does not depend on the addresses.
	made func(host, port string) object
	// fixed are those that are always there.
	fixed []object
	// global objects are in no namespace.
	global bool
	// later objects name others, and come after them as in a cluster, where a controller makes them: who has not heard of a
	// pod when its endpoint slice comes does not look for it again.
	later bool
}

// lag is how much later.
const lag = time.Second

// Kubernetes has of each address a node, and a pod on it whose one container has that port; a service, with endpoints and
// an endpoint slice that lead to the pod; and an ingress to it. The annotation "address" of node, service and ingress says
// the address. Pods are those of a deployment and of a cron job in turn.
func Kubernetes(t testing.TB, listen string) *Fake {
	all := resources()
	return start(t, listen, func(f *Fake, w http.ResponseWriter, r *http.Request) {
		path := strings.Split(r.URL.Path, "/")
		kind, ok := all[path[len(path)-1]]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		objects := kind.objects
		if len(path) > 3 && path[len(path)-3] == "namespaces" && path[len(path)-2] != Namespace {
			objects = func([]string, int) []object { return nil }
		}
		if r.URL.Query().Get("watch") != "" {
			kind.watch(w, r, f, objects)
			return
		}
		list, at := f.get()
		answer(w, object{"apiVersion": kind.version, "kind": kind.kind + "List", "metadata": object{"resourceVersion": fmt.Sprint(at)},
			"items": append([]object{}, objects(list, at)...)})
	})
}

func resources() map[string]*resource {
	return map[string]*resource{
		"nodes":          {version: "v1", kind: "Node", global: true, made: node},
		"pods":           {version: "v1", kind: "Pod", made: pod},
		"services":       {version: "v1", kind: "Service", made: service},
		"endpoints":      {version: "v1", kind: "Endpoints", later: true, made: endpoints},
		"endpointslices": {version: "discovery.k8s.io/v1", kind: "EndpointSlice", later: true, made: endpointSlice},
		"ingresses":      {version: "networking.k8s.io/v1", kind: "Ingress", made: ingress},
		"namespaces": {version: "v1", kind: "Namespace", global: true, fixed: []object{
			{"metadata": object{"name": Namespace, "labels": object{"team": "one"}, "annotations": object{"cost": "centre"}}}}},
		"replicasets": {version: "apps/v1", kind: "ReplicaSet", fixed: []object{
			{"metadata": object{"name": "web-1", "ownerReferences": controlledBy("Deployment", "web")}}}},
		"jobs": {version: "batch/v1", kind: "Job", fixed: []object{
			{"metadata": object{"name": "tick-1", "ownerReferences": controlledBy("CronJob", "tick")}}}},
	}
}

// objects are those of the addresses, as they are at a version of the list.
func (k *resource) objects(list []string, at int) []object {
	var out []object
	add := func(x object) {
		meta := x["metadata"].(object)
		meta["uid"], meta["resourceVersion"] = fmt.Sprint(k.kind, "-", meta["name"]), fmt.Sprint(at)
		if !k.global {
			meta["namespace"] = Namespace
		}
		x["apiVersion"], x["kind"] = k.version, k.kind
		out = append(out, x)
	}
	for _, address := range list {
		if k.made != nil {
			host, port, _ := strings.Cut(address, ":")
			add(k.made(host, port))
		}
	}
	for _, x := range k.fixed {
		meta := object{}
		for key, v := range x["metadata"].(object) {
			meta[key] = v
		}
		add(object{"metadata": meta})
	}
	return out
}

func controlledBy(kind, name string) []any {
	return []any{object{"apiVersion": "v1", "kind": kind, "name": name, "uid": name, "controller": true}}
}

func named(host, port string) object {
	return object{"name": host + "-" + port, "labels": object{"app": "web"}, "annotations": object{"address": host + ":" + port}}
}

func node(host, port string) object {
	return object{"metadata": named(host, port), "status": object{
		"addresses":       []any{object{"type": "InternalIP", "address": host}, object{"type": "Hostname", "address": host + "-" + port}},
		"daemonEndpoints": object{"kubeletEndpoint": object{"Port": number(port)}}}}
}

func pod(host, port string) object {
	meta := named(host, port)
	meta["ownerReferences"] = controlledBy("ReplicaSet", "web-1")
	if number(port)%2 == 0 {
		meta["ownerReferences"] = controlledBy("Job", "tick-1")
	}
	return object{"metadata": meta,
		"spec": object{"nodeName": host + "-" + port, "containers": []any{object{"name": "c", "image": "i:1",
			"ports": []any{object{"name": "metrics", "containerPort": number(port), "protocol": "TCP"}}}}},
		"status": object{"phase": "Running", "podIP": host, "hostIP": "10.0.0.1", "conditions": []any{object{"type": "Ready", "status": "True"}},
			"containerStatuses": []any{object{"name": "c", "containerID": "id://" + host}}}}
}

func service(host, port string) object {
	return object{"metadata": named(host, port), "spec": object{"type": "ClusterIP", "clusterIP": "10.1.0.1",
		"ports": []any{object{"name": "metrics", "port": number(port), "protocol": "TCP"}}}}
}

func podOf(host, port string) object {
	return object{"kind": "Pod", "name": host + "-" + port, "namespace": Namespace}
}

func endpoints(host, port string) object {
	return object{"metadata": named(host, port), "subsets": []any{object{
		"addresses": []any{object{"ip": host, "nodeName": host + "-" + port, "targetRef": podOf(host, port)}},
		"ports":     []any{object{"name": "metrics", "port": number(port), "protocol": "TCP"}}}}}
}

func endpointSlice(host, port string) object {
	meta := named(host, port)
	meta["labels"] = object{"kubernetes.io/service-name": host + "-" + port}
	return object{"metadata": meta, "addressType": "IPv4",
		"endpoints": []any{object{"addresses": []any{host}, "nodeName": host + "-" + port, "zone": "z",
			"conditions": object{"ready": true, "serving": true, "terminating": false}, "targetRef": podOf(host, port)}},
		"ports": []any{object{"name": "metrics", "port": number(port), "protocol": "TCP"}}}
}

func ingress(host, port string) object {
	return object{"metadata": named(host, port), "spec": object{"ingressClassName": "nginx", "tls": []any{object{"hosts": []any{"secure.example"}}},
		"rules": []any{object{"host": host, "http": object{"paths": []any{object{"path": "/" + port, "pathType": "Prefix",
			"backend": object{"service": object{"name": host + "-" + port, "port": object{"number": number(port)}}}}}}}}}}
}

func number(port string) (n int) {
	_, _ = fmt.Sscan(port, &n)
	return n
}

// watch tells of changes as they come, from the version on that the watcher has seen.
func (k *resource) watch(w http.ResponseWriter, r *http.Request, f *Fake, objects func([]string, int) []object) {
	w.Header().Set("Content-Type", "application/json")
	event := func(kind string, x object) {
		_ = json.NewEncoder(w).Encode(object{"type": kind, "object": x})
		w.(http.Flusher).Flush()
	}
	seen := number(r.URL.Query().Get("resourceVersion"))
	shown := objects(f.was(seen), seen)
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		list, at := f.get()
		shown = objects(list, at)
		for _, x := range shown {
			event("ADDED", x)
		}
		event("BOOKMARK", object{"apiVersion": k.version, "kind": k.kind, "metadata": object{"resourceVersion": fmt.Sprint(at),
			"annotations": object{"k8s.io/initial-events-end": "true"}}})
	}
	for r.Context().Err() == nil {
		list, at := f.get()
		if at != seen && k.later {
			time.Sleep(lag)
		}
		seen = at
		now := objects(list, at)
		for _, x := range now {
			if missing(x, shown) {
				event("ADDED", x)
			}
		}
		for _, x := range shown {
			if missing(x, now) {
				event("DELETED", x)
			}
		}
		shown = now
		time.Sleep(step)
	}
}

// missing tells whether an object is not among others.
func missing(x object, others []object) bool {
	name := x["metadata"].(object)["name"]
	return !slices.ContainsFunc(others, func(y object) bool { return y["metadata"].(object)["name"] == name })
}
