// Package kubeletdra runs the parts of the real kubelet that a DRA driver meets (the plugin watcher, the
// registration handshake and the DRA manager of k8s.io/kubernetes) without the rest of a kubelet, so that a
// simulated node dials, prepares and wipes ResourceSlices exactly as a real one does.
package kubeletdra

import (
	"context"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/dra"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"
)

// Options says which node to stand for and where its directories are.
type Options struct {
	Kubeconfig  string
	Node        string
	RegistryDir string // watched for *.sock, as the kubelet's plugins_registry
	StateDir    string // dra_manager_state lives here

	// PodsKnown says whether activePods knows all pods yet; nil where it always does. Before that the manager gives
	// nothing back, so that a restart does not take claims away from pods that were not listed yet.
	PodsKnown func() bool
}

// podSources is the kubelet's "all pod sources were seen".
type podSources struct{ known func() bool }

func (podSources) AddSource(string) {}
func (s podSources) AllReady() bool { return s.known == nil || s.known() }

// alwaysReady lets plugins register from the start.
type alwaysReady struct{}

func (alwaysReady) AddSource(string) {}
func (alwaysReady) AllReady() bool   { return true }

// Client makes a client with limits far above what a bench asks for: the client must not be what is measured.
func Client(kubeconfig string) (kubernetes.Interface, *rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	config.QPS, config.Burst = 2000, 4000
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("make a client from %s: %w", kubeconfig, err)
	}
	return client, config, nil
}

// Start runs the plugin watcher and the DRA manager until ctx ends. activePods is asked for the pods whose
// claims must stay prepared.
func Start(ctx context.Context, client kubernetes.Interface, o Options, activePods dra.ActivePodsFunc) (*dra.Manager, error) {
	for _, dir := range []string{o.RegistryDir, o.StateDir} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("make %s: %w", dir, err)
		}
	}
	manager, err := dra.NewManager(klog.FromContext(ctx), client, o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("make the kubelet's DRA manager: %w", err)
	}
	getNode := func(ctx context.Context) (*v1.Node, error) {
		return client.CoreV1().Nodes().Get(ctx, o.Node, metav1.GetOptions{})
	}
	if err := manager.Start(ctx, activePods, getNode, podSources{o.PodsKnown}); err != nil {
		return nil, fmt.Errorf("start the kubelet's DRA manager: %w", err)
	}
	plugins := pluginmanager.NewPluginManager(o.RegistryDir, record.NewFakeRecorder(1000))
	plugins.AddHandler(registerapi.DRAPlugin, manager.GetWatcherHandler())
	go plugins.Run(ctx, alwaysReady{}, ctx.Done())
	return manager, nil
}
