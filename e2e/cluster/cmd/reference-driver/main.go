// Command reference-driver is the yardstick of `make bench-plugin`: a small DRA driver made with the official Go
// helper (k8s.io/dynamic-resource-allocation/kubeletplugin) that does what the public Go drivers do in Prepare:
// the helper reads the claim, the driver writes one CDI file and one JSON checkpoint, each made durable.
// It is never shipped.
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

	v1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"vnpu.dev/e2e/cluster/internal/kubeletdra"
)

type driver struct {
	name, cdiDir, stateFile string

	mu       sync.Mutex
	prepared map[types.UID][]string // CDI ids by claim
}

func main() {
	var kubeconfig, node, registry, data string
	d := driver{prepared: map[types.UID][]string{}}
	klog.InitFlags(nil)
	flag.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig")
	flag.StringVar(&node, "node", "", "Node name")
	flag.StringVar(&registry, "registry-dir", "", "kubelet's plugins_registry")
	flag.StringVar(&data, "data-dir", "", "directory for the DRA socket and the checkpoint")
	flag.StringVar(&d.cdiDir, "cdi-dir", "", "CDI directory")
	flag.StringVar(&d.name, "driver", "reference.vnpu.dev", "driver name")
	chips := flag.Int("chips", 16, "devices to publish")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := d.run(ctx, kubeconfig, node, registry, data, *chips); err != nil {
		fmt.Fprintln(os.Stderr, "reference-driver:", err)
		os.Exit(1)
	}
}

func (d *driver) run(ctx context.Context, kubeconfig, node, registry, data string, chips int) error {
	client, _, err := kubeletdra.Client(kubeconfig)
	if err != nil {
		return err
	}
	for _, dir := range []string{registry, data, d.cdiDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	d.stateFile = filepath.Join(data, "checkpoint.json")
	helper, err := kubeletplugin.Start(ctx, d,
		kubeletplugin.DriverName(d.name), kubeletplugin.NodeName(node), kubeletplugin.KubeClient(client),
		kubeletplugin.RegistrarDirectoryPath(registry), kubeletplugin.PluginDataDirectoryPath(data), kubeletplugin.HealthService(false))
	if err != nil {
		return err
	}
	defer helper.Stop()
	devices := make([]v1.Device, chips)
	for i := range devices {
		devices[i] = v1.Device{
			Name:       fmt.Sprintf("chip-%d-0", i),
			Attributes: map[v1.QualifiedName]v1.DeviceAttribute{"type": {StringValue: ptr.To("chip")}},
		}
	}
	err = helper.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{
		node + "/reference": {Slices: []resourceslice.Slice{{Devices: devices}}},
	}})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (d *driver) PrepareResourceClaims(_ context.Context, claims []*v1.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		devices, err := d.prepare(claim)
		results[claim.UID] = kubeletplugin.PrepareResult{Devices: devices, Err: err}
	}
	return results, nil
}

func (d *driver) prepare(claim *v1.ResourceClaim) ([]kubeletplugin.Device, error) {
	var devices []kubeletplugin.Device
	var ids []string
	var specs []map[string]any
	for i, result := range claim.Status.Allocation.Devices.Results {
		if result.Driver != d.name {
			continue
		}
		name := fmt.Sprintf("%s-%d", claim.UID, i)
		id := d.name + "/claim=" + name
		ids = append(ids, id)
		specs = append(specs, map[string]any{"name": name, "containerEdits": map[string]any{
			"deviceNodes": []map[string]any{{"path": "/dev/null"}},
		}})
		devices = append(devices, kubeletplugin.Device{
			Requests: []string{result.Request}, PoolName: result.Pool, DeviceName: result.Device, CDIDeviceIDs: []string{id},
		})
	}
	text, err := json.Marshal(map[string]any{"cdiVersion": "0.5.0", "kind": d.name + "/claim", "devices": specs})
	if err != nil {
		return nil, err
	}
	if err := durable(d.cdiFile(claim.UID), text); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.prepared[claim.UID] = ids
	return devices, d.save()
}

func (d *driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	results := map[types.UID]error{}
	for _, claim := range claims {
		err := os.Remove(d.cdiFile(claim.UID))
		if os.IsNotExist(err) {
			err = nil
		}
		d.mu.Lock()
		delete(d.prepared, claim.UID)
		if err == nil {
			err = d.save()
		}
		d.mu.Unlock()
		results[claim.UID] = err
	}
	return results, nil
}

func (d *driver) HandleError(_ context.Context, err error, msg string) {
	klog.ErrorS(err, msg)
}

// WatchHealthStatus is never called: the health service is off.
func (d *driver) WatchHealthStatus(context.Context, chan<- kubeletplugin.DeviceHealthReport) error {
	return kubeletplugin.ErrHealthNotSupported
}

func (d *driver) cdiFile(uid types.UID) string {
	return filepath.Join(d.cdiDir, "reference-claim_"+string(uid)+".json")
}

// save writes the whole checkpoint; the caller holds the lock.
func (d *driver) save() error {
	text, err := json.Marshal(d.prepared)
	if err != nil {
		return err
	}
	return durable(d.stateFile, text)
}

// durable writes a file so that it survives a crash: temporary file, fsync, rename.
func durable(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.Write(text); err != nil {
		file.Close()
		return err
	}
	if err := file.Sync(); err != nil {
		file.Close()
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
