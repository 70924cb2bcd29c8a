// Command kubelet-standin serves one simulated node: it prepares and unprepares the claims of the pods bound to
// it through the real kubelet's DRA code, starts no container, and reports the pods as running.
//
// For every pod that it prepared, <state-dir>/pods/<pod uid>.json lists the CDI ids that each container would get.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cm/dra"

	"vnpu.dev/e2e/cluster/internal/kubeletdra"
)

// retryDelay is how soon a failed Prepare or Unprepare is tried again. A real kubelet waits for its next pod
// sync (up to 90 s); tests need not.
const retryDelay = time.Second

type node struct {
	client  kubernetes.Interface
	manager *dra.Manager
	pods    cache.Store
	queue   workqueue.TypedDelayingInterface[string]
	dir     string

	mu       sync.Mutex
	prepared map[types.UID]bool
}

func main() {
	var o kubeletdra.Options
	var workers int
	klog.InitFlags(nil)
	flag.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig of the simulated node")
	flag.StringVar(&o.Node, "node", "", "name of the Node object")
	flag.StringVar(&o.RegistryDir, "registry-dir", "", "directory watched for registration sockets")
	flag.StringVar(&o.StateDir, "state-dir", "", "directory of the kubelet's own state")
	flag.IntVar(&workers, "workers", 8, "pods handled at the same time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, workers); err != nil {
		fmt.Fprintln(os.Stderr, "kubelet-standin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o kubeletdra.Options, workers int) error {
	client, _, err := kubeletdra.Client(o.Kubeconfig)
	if err != nil {
		return err
	}
	n := &node{
		client:   client,
		queue:    workqueue.NewTypedDelayingQueue[string](),
		dir:      filepath.Join(o.StateDir, "pods"),
		prepared: map[types.UID]bool{},
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	watch := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll,
		fields.OneTermEqualSelector("spec.nodeName", o.Node))
	enqueue := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			n.queue.Add(key)
		}
	}
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: watch,
		ObjectType:    &v1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    enqueue,
			UpdateFunc: func(_, object any) { enqueue(object) },
			DeleteFunc: enqueue,
		},
	})
	n.pods = store
	o.PodsKnown = informer.HasSynced
	n.manager, err = kubeletdra.Start(ctx, client, o, n.active)
	if err != nil {
		return err
	}
	go informer.Run(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	for range workers {
		go n.work(ctx)
	}
	<-ctx.Done()
	n.queue.ShutDown()
	return nil
}

// active lists the pods whose claims must stay prepared: all that are bound here and not finished.
func (n *node) active() []*v1.Pod {
	var pods []*v1.Pod
	for _, object := range n.pods.List() {
		if pod, ok := object.(*v1.Pod); ok && pod.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (n *node) work(ctx context.Context) {
	for {
		key, stopped := n.queue.Get()
		if stopped {
			return
		}
		if err := n.sync(ctx, key); err != nil {
			klog.ErrorS(err, "Pod not synced, will retry", "pod", key)
			n.queue.AddAfter(key, retryDelay)
		}
		n.queue.Done(key)
	}
}

func (n *node) sync(ctx context.Context, key string) error {
	object, exists, err := n.pods.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	pod, ok := object.(*v1.Pod)
	if !ok {
		return nil
	}
	if pod.DeletionTimestamp != nil {
		return n.finish(ctx, pod)
	}
	n.mu.Lock()
	done := n.prepared[pod.UID]
	n.mu.Unlock()
	if done || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		return nil
	}
	if err := n.manager.PrepareResources(ctx, pod); err != nil {
		n.report(ctx, pod, "FailedPrepareDynamicResources", err)
		return err
	}
	if err := n.record(pod); err != nil {
		return err
	}
	n.mu.Lock()
	n.prepared[pod.UID] = true
	n.mu.Unlock()
	return n.setRunning(ctx, pod)
}

func (n *node) finish(ctx context.Context, pod *v1.Pod) error {
	if err := n.manager.UnprepareResources(ctx, pod); err != nil {
		return err
	}
	n.mu.Lock()
	delete(n.prepared, pod.UID)
	n.mu.Unlock()
	if err := os.Remove(n.podFile(pod)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return n.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64),
		Preconditions:      metav1.NewUIDPreconditions(string(pod.UID)),
	})
}

func (n *node) podFile(pod *v1.Pod) string {
	return filepath.Join(n.dir, string(pod.UID)+".json")
}

// record writes what each container would be started with.
func (n *node) record(pod *v1.Pod) error {
	containers := map[string][]string{}
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		info, err := n.manager.GetResources(pod, container)
		if err != nil {
			return fmt.Errorf("CDI devices of container %s: %w", container.Name, err)
		}
		ids := []string{}
		for _, device := range info.CDIDevices {
			ids = append(ids, device.Name)
		}
		containers[container.Name] = ids
	}
	text, err := json.Marshal(map[string]any{"namespace": pod.Namespace, "name": pod.Name, "containers": containers})
	if err != nil {
		return err
	}
	temporary := n.podFile(pod) + ".tmp"
	if err := os.WriteFile(temporary, text, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, n.podFile(pod))
}

func (n *node) setRunning(ctx context.Context, pod *v1.Pod) error {
	now := metav1.Now()
	update := pod.DeepCopy()
	update.Status.Phase = v1.PodRunning
	update.Status.StartTime = &now
	update.Status.Conditions = append(update.Status.Conditions,
		v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: now},
		v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionTrue, LastTransitionTime: now})
	update.Status.ContainerStatuses = nil
	started := true
	for _, container := range pod.Spec.Containers {
		update.Status.ContainerStatuses = append(update.Status.ContainerStatuses, v1.ContainerStatus{
			Name: container.Name, Image: container.Image, Ready: true, Started: &started,
			State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: now}},
		})
	}
	_, err := n.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}

// report makes the event that a real kubelet makes of a failed preparation; a lost event is not an error.
func (n *node) report(ctx context.Context, pod *v1.Pod, reason string, cause error) {
	now := metav1.Now()
	event := &v1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: pod.Name + "-", Namespace: pod.Namespace},
		InvolvedObject: v1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Reason:         reason, Message: cause.Error(), Type: v1.EventTypeWarning,
		Source: v1.EventSource{Component: "kubelet-standin"}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	if _, err := n.client.CoreV1().Events(pod.Namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
		klog.V(2).InfoS("Event lost", "pod", klog.KObj(pod), "err", err)
	}
}
