use super::*;
use crate::fixtures::{owner, plan};

#[test]
fn a_node_of_one_module_is_a_counter_slice_and_a_device_slice() {
    let mut slices = resource_slices(&plan(1), &owner(), 7);
    assert_eq!(slices.len(), 2);
    // The set has all sixteen modules; one is enough for the reader.
    let sets = slices[0].spec.shared_counters.as_mut().unwrap();
    assert_eq!(sets[0].counters.len(), 32);
    sets[0].counters.retain(|name, _| name.starts_with("m0-"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&slices).unwrap(), @r#"
    [
      {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {
          "generateName": "00000-vnpu.dev-node-1-",
          "ownerReferences": [
            {
              "apiVersion": "v1",
              "controller": true,
              "kind": "Node",
              "name": "node-1",
              "uid": "node-uid"
            }
          ]
        },
        "spec": {
          "driver": "vnpu.dev",
          "nodeName": "node-1",
          "pool": {
            "generation": 7,
            "name": "node-1/ascend",
            "resourceSliceCount": 2
          },
          "sharedCounters": [
            {
              "counters": {
                "m0-c0": {
                  "value": "1"
                },
                "m0-c1": {
                  "value": "1"
                }
              },
              "name": "modules-0"
            }
          ]
        }
      },
      {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {
          "generateName": "40000-vnpu.dev-node-1-",
          "ownerReferences": [
            {
              "apiVersion": "v1",
              "controller": true,
              "kind": "Node",
              "name": "node-1",
              "uid": "node-uid"
            }
          ]
        },
        "spec": {
          "devices": [
            {
              "attributes": {
                "chips": {
                  "int": 2
                },
                "computeCapability": {
                  "version": "0.0.0"
                },
                "cudaVersion": {
                  "version": "0.0.0"
                },
                "dies": {
                  "int": 2
                },
                "driverVersion": {
                  "version": "25.0.0-rc1"
                },
                "leaf": {
                  "string": ""
                },
                "linkGroup": {
                  "string": ""
                },
                "model": {
                  "string": "910C"
                },
                "module": {
                  "int": 0
                },
                "productName": {
                  "string": "Stand-in"
                },
                "profile": {
                  "string": ""
                },
                "shareable": {
                  "bool": true
                },
                "superpod": {
                  "string": ""
                },
                "type": {
                  "string": "module"
                },
                "uuid": {
                  "string": "M-VDIE-0-0"
                },
                "vendor": {
                  "string": "ascend"
                }
              },
              "capacity": {
                "cores": {
                  "value": "200"
                },
                "memory": {
                  "value": "128Gi"
                }
              },
              "consumesCounters": [
                {
                  "counterSet": "modules-0",
                  "counters": {
                    "m0-c0": {
                      "value": "1"
                    },
                    "m0-c1": {
                      "value": "1"
                    }
                  }
                }
              ],
              "name": "module-0"
            },
            {
              "allowMultipleAllocations": true,
              "attributes": {
                "chips": {
                  "int": 1
                },
                "computeCapability": {
                  "version": "0.0.0"
                },
                "cudaVersion": {
                  "version": "0.0.0"
                },
                "dies": {
                  "int": 2
                },
                "driverVersion": {
                  "version": "25.0.0-rc1"
                },
                "leaf": {
                  "string": ""
                },
                "linkGroup": {
                  "string": ""
                },
                "model": {
                  "string": "910C"
                },
                "module": {
                  "int": 0
                },
                "productName": {
                  "string": "Stand-in"
                },
                "profile": {
                  "string": ""
                },
                "shareable": {
                  "bool": true
                },
                "superpod": {
                  "string": ""
                },
                "type": {
                  "string": "chip"
                },
                "uuid": {
                  "string": "VDIE-0-0"
                },
                "vendor": {
                  "string": "ascend"
                }
              },
              "capacity": {
                "cores": {
                  "requestPolicy": {
                    "default": "100",
                    "validRange": {
                      "max": "100",
                      "min": "1",
                      "step": "1"
                    }
                  },
                  "value": "100"
                },
                "memory": {
                  "requestPolicy": {
                    "default": "64Gi",
                    "validRange": {
                      "max": "64Gi",
                      "min": "1Gi",
                      "step": "1Gi"
                    }
                  },
                  "value": "64Gi"
                }
              },
              "consumesCounters": [
                {
                  "counterSet": "modules-0",
                  "counters": {
                    "m0-c0": {
                      "value": "1"
                    }
                  }
                }
              ],
              "name": "chip-0-0"
            },
            {
              "allowMultipleAllocations": true,
              "attributes": {
                "chips": {
                  "int": 1
                },
                "computeCapability": {
                  "version": "0.0.0"
                },
                "cudaVersion": {
                  "version": "0.0.0"
                },
                "dies": {
                  "int": 2
                },
                "driverVersion": {
                  "version": "25.0.0-rc1"
                },
                "leaf": {
                  "string": ""
                },
                "linkGroup": {
                  "string": ""
                },
                "model": {
                  "string": "910C"
                },
                "module": {
                  "int": 0
                },
                "productName": {
                  "string": "Stand-in"
                },
                "profile": {
                  "string": ""
                },
                "shareable": {
                  "bool": true
                },
                "superpod": {
                  "string": ""
                },
                "type": {
                  "string": "chip"
                },
                "uuid": {
                  "string": "VDIE-0-1"
                },
                "vendor": {
                  "string": "ascend"
                }
              },
              "capacity": {
                "cores": {
                  "requestPolicy": {
                    "default": "100",
                    "validRange": {
                      "max": "100",
                      "min": "1",
                      "step": "1"
                    }
                  },
                  "value": "100"
                },
                "memory": {
                  "requestPolicy": {
                    "default": "64Gi",
                    "validRange": {
                      "max": "64Gi",
                      "min": "1Gi",
                      "step": "1Gi"
                    }
                  },
                  "value": "64Gi"
                }
              },
              "consumesCounters": [
                {
                  "counterSet": "modules-0",
                  "counters": {
                    "m0-c1": {
                      "value": "1"
                    }
                  }
                }
              ],
              "name": "chip-0-1"
            }
          ],
          "driver": "vnpu.dev",
          "nodeName": "node-1",
          "pool": {
            "generation": 7,
            "name": "node-1/ascend",
            "resourceSliceCount": 2
          }
        }
      }
    ]
    "#);
}

#[test]
fn an_empty_pool_is_a_slice_without_devices() {
    let slices = resource_slices(&plan(0), &owner(), 1);
    assert_eq!(slices.len(), 1);
    assert_eq!((&slices[0].spec.devices, &slices[0].spec.shared_counters), (&None, &None));
    assert_eq!(slices[0].spec.pool.resource_slice_count, 1);
}

#[test]
fn the_key_is_read_back_from_the_name_that_the_server_made() {
    for slice in resource_slices(&plan(22), &owner(), 1) {
        let mut made = slice.clone();
        made.metadata.name = made.metadata.generate_name.clone().map(|n| n + "x9z4k");
        let text = key_of(&made).unwrap().generate_name(&owner().name);
        assert_eq!(Some(text), slice.metadata.generate_name);
    }
    assert_eq!(key_of(&api::ResourceSlice::default()), None);
}
