// Steps 1 and 2 of docs/azure-account.md: a storage account, a Batch account, and two roles for whoever runs the flow;
// and an alert before the quota of cores is used up, and a budget. While nothing runs it costs a few cents a month.

@description('Whom Azure Monitor and the budget notify.')
param email string

@description('Object id of the user, service principal or managed identity that runs the flow.')
param principalId string

@allowed(['User', 'ServicePrincipal', 'Group'])
param principalType string = 'User'

@minLength(3)
@maxLength(20)
@description('Lower-case letters and digits: the accounts are <name>data and <name>jobs.')
param name string

param location string = resourceGroup().location

@description('US dollars a month, or what the subscription is billed in. A budget notifies; it stops nothing.')
param monthlyBudget int = 50

@description('First day of a month, this one by default. Azure refuses another date for a budget that exists.')
param budgetFrom string = utcNow('yyyy-MM-01')

// With shared keys forbidden, only the identities that have a role here can read blobs, sign SAS or create pools.
resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: '${name}data'
  location: location
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  properties: {
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource batch 'Microsoft.Batch/batchAccounts@2024-07-01' = {
  name: '${name}jobs'
  location: location
  properties: {
    allowedAuthenticationModes: ['AAD']
    poolAllocationMode: 'BatchService'
  }
}

var roles = {
  azureBatchDataContributor: '6aaa78f1-f7de-44ca-8722-c64a23943cae'
  storageBlobDataContributor: 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
}

// Pools, jobs and Batch tasks.
resource batchRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(batch.id, principalId, roles.azureBatchDataContributor)
  scope: batch
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.azureBatchDataContributor)
  }
}

// Containers and blobs, and the user delegation key that signs SAS: for that, the scope must be the account.
resource storageRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, principalId, roles.storageBlobDataContributor)
  scope: storage
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataContributor)
  }
}

resource people 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: '${name}-people'
  location: 'global'
  properties: {
    groupShortName: 'batch'
    enabled: true
    emailReceivers: [{ name: 'email', emailAddress: email, useCommonAlertSchema: true }]
  }
}

// From 80 % of the quota on, the next pool may get no nodes. The quota of one VM family can be smaller.
resource quota 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: '${name}-cores'
  location: 'global'
  properties: {
    description: 'Four fifths of the quota of dedicated cores of the Batch account are in use.'
    enabled: true
    severity: 2
    scopes: [batch.id]
    evaluationFrequency: 'PT1M' // the metric is a total per minute
    windowSize: 'PT1M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          criterionType: 'StaticThresholdCriterion'
          name: 'cores'
          metricName: 'CoreCount'
          timeAggregation: 'Total'
          operator: 'GreaterThanOrEqual'
          threshold: max(1, batch.properties.dedicatedCoreQuota * 4 / 5)
        }
      ]
    }
    actions: [{ actionGroupId: people.id }]
  }
}

resource budget 'Microsoft.Consumption/budgets@2023-11-01' = {
  name: name
  properties: {
    category: 'Cost'
    amount: monthlyBudget
    timeGrain: 'Monthly'
    timePeriod: { startDate: budgetFrom }
    notifications: {
      half: { enabled: true, operator: 'GreaterThan', threshold: 50, thresholdType: 'Actual', contactEmails: [email] }
      all: { enabled: true, operator: 'GreaterThan', threshold: 100, thresholdType: 'Forecasted', contactEmails: [email] }
    }
  }
}
