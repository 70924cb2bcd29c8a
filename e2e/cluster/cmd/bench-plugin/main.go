// Command bench-plugin measures a DRA driver from where the kubelet stands: it starts the driver, registers it with
// the real kubelet's plugin watcher and DRA plugin manager, and times NodePrepareResources and
// NodeUnprepareResources over the kubelet's own connection, with claims that a real API server serves.
//
// Usage: bench-plugin [flags] -- DRIVER-COMMAND [ARG...]
// One line of JSON on standard output per figure.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	drahealthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	draplugin "k8s.io/kubernetes/pkg/kubelet/cm/dra/plugin"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"
	"k8s.io/utils/ptr"

	"vnpu.dev/e2e/cluster/internal/kubeletdra"
)

type bench struct {
	client    kubernetes.Interface
	options   kubeletdra.Options
	label     string
	driver    string
	pool      string
	shared    bool
	chips     int
	dies      int
	cycles    int
	namespace string
	plugins   *draplugin.DRAPluginManager
	node      *v1.Node
}

type ready struct{}

func (ready) AddSource(string) {}
func (ready) AllReady() bool   { return true }

// noHealth refuses health streams: the bench measures calls.
type noHealth struct{}

func (noHealth) HandleWatchResourcesStream(ctx context.Context, _ drahealthv1.DRAResourceHealth_NodeWatchResourcesClient, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

func main() {
	b := bench{}
	klog.InitFlags(nil)
	flag.StringVar(&b.options.Kubeconfig, "kubeconfig", "", "administrator's kubeconfig")
	flag.StringVar(&b.options.Node, "node", "", "Node object to stand for")
	flag.StringVar(&b.options.RegistryDir, "registry-dir", "", "directory watched for registration sockets")
	flag.StringVar(&b.label, "label", "driver", "name in the output")
	flag.StringVar(&b.driver, "driver", "vnpu.dev", "driver name")
	flag.StringVar(&b.pool, "pool", "", "pool name")
	flag.BoolVar(&b.shared, "shared", true, "allocate shares (4Gi, 10 %) instead of whole devices")
	flag.IntVar(&b.chips, "chips", 16, "devices to spread the claims over")
	flag.IntVar(&b.dies, "dies", 2, "chips in a module; 1 for single-die hardware")
	flag.IntVar(&b.cycles, "cycles", 300, "prepare and unprepare cycles for each number of callers")
	flag.StringVar(&b.namespace, "namespace", "default", "namespace of the claims")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench-plugin:", err)
		os.Exit(1)
	}
}

func (b *bench) emit(figure string, values map[string]any) {
	values["label"], values["figure"] = b.label, figure
	text, err := json.Marshal(values)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-plugin:", err)
		return
	}
	fmt.Println(string(text))
}

func (b *bench) run(ctx context.Context, command []string) error {
	if len(command) == 0 {
		return fmt.Errorf("no driver command after --")
	}
	var err error
	if b.client, _, err = kubeletdra.Client(b.options.Kubeconfig); err != nil {
		return err
	}
	if b.node, err = b.client.CoreV1().Nodes().Get(ctx, b.options.Node, metav1.GetOptions{}); err != nil {
		return err
	}
	if err := os.MkdirAll(b.options.RegistryDir, 0o750); err != nil {
		return err
	}
	b.plugins = draplugin.NewDRAPluginManager(ctx, b.client, func(context.Context) (*v1.Node, error) { return b.node, nil }, noHealth{}, time.Hour)
	defer b.plugins.Stop()
	watcher := pluginmanager.NewPluginManager(b.options.RegistryDir, record.NewFakeRecorder(1000))
	watcher.AddHandler(registerapi.DRAPlugin, b.plugins)
	go watcher.Run(ctx, ready{}, ctx.Done())

	process, err := b.start(ctx, command)
	if err != nil {
		return err
	}
	defer func() {
		_ = process.Process.Signal(syscall.SIGTERM)
		_ = process.Wait()
	}()
	if err := b.waitRegistered(ctx); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	b.emit("rss_idle", map[string]any{"kib": rss(process.Process.Pid)})
	if err := b.measureReads(ctx); err != nil {
		return err
	}
	total := 0
	for _, callers := range []int{1, 2, 4, 8} {
		claims, err := b.makeClaims(ctx, b.cycles)
		if err != nil {
			return err
		}
		if err := b.measure(ctx, callers, claims); err != nil {
			return err
		}
		total += len(claims)
		b.emit("rss_after", map[string]any{"cycles": total, "kib": rss(process.Process.Pid)})
		if err := b.deleteClaims(ctx); err != nil {
			return err
		}
	}
	return nil
}

// start runs the driver and measures how long its sockets and its first slice take.
func (b *bench) start(ctx context.Context, command []string) (*exec.Cmd, error) {
	watch, err := b.client.ResourceV1().ResourceSlices().Watch(ctx, metav1.ListOptions{
		FieldSelector: "spec.driver=" + b.driver + ",spec.nodeName=" + b.options.Node})
	if err != nil {
		return nil, err
	}
	defer watch.Stop()
	process := exec.Command(command[0], command[1:]...)
	process.Stdout, process.Stderr = os.Stderr, os.Stderr
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := time.Now()
	if err := process.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", command[0], err)
	}
	sockets := make(chan time.Duration, 1)
	go func() {
		for ctx.Err() == nil {
			if found, _ := filepath.Glob(filepath.Join(b.options.RegistryDir, "*.sock")); len(found) > 0 {
				sockets <- time.Since(begun)
				return
			}
			time.Sleep(200 * time.Microsecond)
		}
	}()
	deadline := time.After(30 * time.Second)
	for seen := 0; seen < 2; {
		select {
		case took := <-sockets:
			b.emit("start_to_sockets", map[string]any{"ms": millis(took)})
			seen++
		case event := <-watch.ResultChan():
			if event.Type == "ADDED" {
				b.emit("start_to_first_slice", map[string]any{"ms": millis(time.Since(begun))})
				watch.Stop()
				seen++
			}
		case <-deadline:
			_ = process.Process.Kill()
			_ = process.Wait()
			return nil, fmt.Errorf("no sockets or no slice of %s within 30 s", b.driver)
		}
	}
	return process, nil
}

func (b *bench) waitRegistered(ctx context.Context) error {
	for range 300 {
		if _, err := b.plugins.GetPlugin(b.driver); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s did not register within 30 s", b.driver)
}

// makeClaims creates allocated claims as the scheduler would leave them.
func (b *bench) makeClaims(ctx context.Context, count int) ([]*drapb.Claim, error) {
	claims := make([]*drapb.Claim, count)
	return claims, parallel(8, count, func(i int) error {
		claim := &resourceapi.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-", Namespace: b.namespace, Labels: map[string]string{"bench": "plugin"}},
			Spec: resourceapi.ResourceClaimSpec{Devices: resourceapi.DeviceClaim{Requests: []resourceapi.DeviceRequest{{
				Name: "npu", Exactly: &resourceapi.ExactDeviceRequest{DeviceClassName: "npu.vnpu.dev",
					AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: 1},
			}}}},
		}
		result := resourceapi.DeviceRequestAllocationResult{
			Request: "npu", Driver: b.driver, Pool: b.pool,
			Device: fmt.Sprintf("chip-%d-%d", (i%b.chips)/b.dies, (i%b.chips)%b.dies),
		}
		if b.shared {
			claim.Spec.Devices.Requests[0].Exactly.Capacity = &resourceapi.CapacityRequirements{
				Requests: map[resourceapi.QualifiedName]resource.Quantity{"memory": resource.MustParse("4Gi"), "cores": resource.MustParse("10")}}
			result.ShareID = ptr.To(uuid.NewUUID())
			result.ConsumedCapacity = map[resourceapi.QualifiedName]resource.Quantity{
				"memory": resource.MustParse("4Gi"), "cores": resource.MustParse("10")}
		}
		created, err := b.client.ResourceV1().ResourceClaims(b.namespace).Create(ctx, claim, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create claim: %w", err)
		}
		created.Status.Allocation = &resourceapi.AllocationResult{
			Devices: resourceapi.DeviceAllocationResult{Results: []resourceapi.DeviceRequestAllocationResult{result}},
			NodeSelector: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{{
				Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: []string{b.options.Node}}}}}},
		}
		created.Status.ReservedFor = []resourceapi.ResourceClaimConsumerReference{{Resource: "pods", Name: "bench", UID: uuid.NewUUID()}}
		if _, err := b.client.ResourceV1().ResourceClaims(b.namespace).UpdateStatus(ctx, created, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("allocate claim: %w", err)
		}
		claims[i] = &drapb.Claim{Namespace: b.namespace, Uid: string(created.UID), Name: created.Name}
		return nil
	})
}

func (b *bench) deleteClaims(ctx context.Context) error {
	return b.client.ResourceV1().ResourceClaims(b.namespace).DeleteCollection(ctx, metav1.DeleteOptions{},
		metav1.ListOptions{LabelSelector: "bench=plugin"})
}

// measureReads times how long the API server takes to answer the one question that every Prepare asks, over this
// program's own warm connection: no driver can be faster than this.
func (b *bench) measureReads(ctx context.Context) error {
	claims, err := b.makeClaims(ctx, b.cycles)
	if err != nil {
		return err
	}
	for _, callers := range []int{1, 8} {
		took := make([]time.Duration, len(claims))
		err := parallel(callers, len(claims), func(i int) error {
			at := time.Now()
			_, err := b.client.ResourceV1().ResourceClaims(b.namespace).Get(ctx, claims[i].Name, metav1.GetOptions{})
			took[i] = time.Since(at)
			return err
		})
		if err != nil {
			return err
		}
		b.emit("reads", map[string]any{"callers": callers, "p50_ms": quantile(took, .50), "p99_ms": quantile(took, .99)})
	}
	return b.deleteClaims(ctx)
}

// measure prepares and unprepares every claim once, with so many callers at the same time.
func (b *bench) measure(ctx context.Context, callers int, claims []*drapb.Claim) error {
	plugin, err := b.plugins.GetPlugin(b.driver)
	if err != nil {
		return err
	}
	prepares := make([]time.Duration, len(claims))
	unprepares := make([]time.Duration, len(claims))
	begun := time.Now()
	err = parallel(callers, len(claims), func(i int) error {
		claim := claims[i]
		at := time.Now()
		response, err := plugin.NodePrepareResources(ctx, &drapb.NodePrepareResourcesRequest{Claims: []*drapb.Claim{claim}})
		prepares[i] = time.Since(at)
		if err != nil {
			return fmt.Errorf("prepare %s: %w", claim.Name, err)
		}
		if answer := response.Claims[claim.Uid]; answer == nil || answer.Error != "" || len(answer.Devices) == 0 {
			return fmt.Errorf("prepare %s: answer %v", claim.Name, answer)
		}
		at = time.Now()
		gone, err := plugin.NodeUnprepareResources(ctx, &drapb.NodeUnprepareResourcesRequest{Claims: []*drapb.Claim{claim}})
		unprepares[i] = time.Since(at)
		if err != nil {
			return fmt.Errorf("unprepare %s: %w", claim.Name, err)
		}
		if answer := gone.Claims[claim.Uid]; answer == nil || answer.Error != "" {
			return fmt.Errorf("unprepare %s: answer %v", claim.Name, answer)
		}
		return nil
	})
	if err != nil {
		return err
	}
	wall := time.Since(begun)
	b.emit("cycles", map[string]any{
		"callers": callers, "cycles": len(claims), "per_s": float64(len(claims)) / wall.Seconds(),
		"prepare_p50_ms": quantile(prepares, .50), "prepare_p99_ms": quantile(prepares, .99),
		"unprepare_p50_ms": quantile(unprepares, .50), "unprepare_p99_ms": quantile(unprepares, .99),
	})
	return nil
}

// parallel runs work(0..count) on so many goroutines and returns the first error.
func parallel(workers, count int, work func(int) error) error {
	var next atomic.Int64
	var first atomic.Pointer[error]
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= count || first.Load() != nil {
					return
				}
				if err := work(i); err != nil {
					first.CompareAndSwap(nil, &err)
					return
				}
			}
		})
	}
	group.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func quantile(values []time.Duration, q float64) float64 {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return millis(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))])
}

// rss reads the resident size of a process in KiB; 0 when it is gone.
func rss(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			var kib int
			if _, err := fmt.Sscanf(strings.TrimSpace(value), "%d", &kib); err == nil {
				return kib
			}
		}
	}
	return 0
}
